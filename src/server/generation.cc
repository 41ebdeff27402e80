#include "server/generation.h"

#include <fmt/format.h>

#include <chrono>
#include <random>
#include <utility>

namespace qg {
namespace {

uint64_t random_bits() {
  static std::random_device device;
  return (static_cast<uint64_t>(device()) << 32) | device();
}

ReplyHead make_head(ApiKind kind, const std::string& model) {
  const auto now = std::chrono::system_clock::now().time_since_epoch();
  return {kind,
          fmt::format("{}-{:016x}{:016x}", kind == ApiKind::chat ? "chatcmpl" : "cmpl", random_bits(), random_bits()),
          model, std::chrono::duration_cast<std::chrono::seconds>(now).count()};
}

}  // namespace

Generation::Generation(PreparedRequest request, const ServedModel& model, ServerMetrics& metrics,
                       EngineClock::time_point arrival, std::function<void()> on_change)
    : request_(std::move(request)),
      model_(model),
      metrics_(metrics),
      arrival_(arrival),
      on_change_(std::move(on_change)),
      head_(make_head(request_.api.kind, model.name)),
      seed_(request_.api.seed.value_or(random_bits())),
      open_choices_(num_choices()) {
  for (int64_t i = 0; i < num_choices(); ++i)
    choices_.push_back({ChoiceText(model.tokenizer, request_.api),
                        &request_.prompts[static_cast<size_t>(i / request_.api.n)],
                        {},
                        {},
                        {}});
  for (const PreparedPrompt& prompt : request_.prompts)
    metrics_.prompt_tokens += static_cast<int64_t>(prompt.tokens.size());
}

Request Generation::engine_request(int64_t choice) const {
  const ApiRequest& api = request_.api;
  Request request;
  request.prompt = choices_[static_cast<size_t>(choice)].prompt->tokens;
  request.max_tokens = request_.max_tokens;
  request.stop_tokens = api.stop_token_ids;
  if (!api.ignore_eos)
    request.stop_tokens.insert(request.stop_tokens.end(), model_.tokenizer.eos().begin(), model_.tokenizer.eos().end());
  request.sampling = api.sampling;
  request.sampling.seed = seed_ + static_cast<uint64_t>(choice % api.n);  // choices of one prompt differ
  if (api.logprobs) request.logits = api.echo ? LogitsWanted::all : LogitsWanted::sampled;
  return request;
}

void Generation::on_event(int64_t index, EngineEvent event) {
  Choice& choice = choices_[static_cast<size_t>(index)];
  if (error_ || choice.text.ended()) return;
  if (event.position < 0) {
    if (event.logprobs) choice.prompt_rows.push_back(std::move(*event.logprobs));
    return;
  }
  if (event.finish == FinishReason::refused || event.finish == FinishReason::cancelled ||
      event.finish == FinishReason::failed) {
    fail(ApiError(500, event.reason.empty() ? "the request was cancelled" : event.reason));
    return;
  }
  begin_text(choice);
  if (event.token >= 0) {
    note_token(choice, event.time);
    std::optional<TokenLogprobs> logprobs;
    if (event.logprobs) logprobs = std::move(*event.logprobs);
    choice.text.push(event.token, std::move(logprobs), event.finish == FinishReason::stop);
  }
  if (event.finish != FinishReason::none) choice.text.finish(event.finish);
  choice.abandoned = choice.text.ended() && event.finish == FinishReason::none;
  if (choice.text.ended()) end_choice(choice);
  if (streams()) stream_part(index);
  if (ended() || !output_.empty()) on_change_();
}

bool Generation::take_cancellation(int64_t choice) {
  return std::exchange(choices_[static_cast<size_t>(choice)].abandoned, false);
}

void Generation::begin_text(Choice& choice) {
  if (std::exchange(choice.text_begun, true)) return;
  if (request_.api.echo) choice.text.echo(choice.prompt->text, choice.prompt->tokens, std::move(choice.prompt_rows));
  if (request_.api.kind == ApiKind::completion) choice.text.go_on_after(choice.prompt->tokens);
}

void Generation::note_token(Choice& choice, EngineClock::time_point time) {
  if (choice.tokens++ == 0) {
    choice.first = time;
    metrics_.time_to_first_token.observe(std::chrono::duration<double>(time - arrival_).count());
  }
  choice.last = time;
  ++metrics_.generation_tokens;
}

void Generation::end_choice(const Choice& choice) {
  --open_choices_;
  if (choice.tokens > 1)
    metrics_.time_per_output_token.observe(std::chrono::duration<double>(choice.last - choice.first).count() /
                                           static_cast<double>(choice.tokens - 1));
  ++metrics_.finished[std::string(choice.text.finish_reason())];
  if (open_choices_ == 0)
    metrics_.request_duration.observe(std::chrono::duration<double>(EngineClock::now() - arrival_).count());
}

void Generation::fail(ApiError error) {
  if (ended()) return;
  error_ = std::move(error);
  metrics_.finished[error_->status == kClientLeft ? "client_gone" : "error"] += open_choices_;
  on_change_();
}

ChoicePart Generation::part_of(int64_t index) {
  Choice& choice = choices_[static_cast<size_t>(index)];
  ChoicePart part;
  part.index = index;
  part.text = choice.text.take_text();
  part.finish_reason = choice.text.finish_reason();
  if (request_.api.logprobs) {
    const std::vector<LogprobEntry> entries = choice.text.take_logprobs();
    part.num_logprobs = static_cast<int64_t>(entries.size());
    part.logprobs = logprobs_json(request_.api.kind, model_.tokenizer, entries);
  }
  part.first = !choice.begun;
  return part;
}

void Generation::stream_part(int64_t index) {
  Choice& choice = choices_[static_cast<size_t>(index)];
  ChoicePart part = part_of(index);
  // A chunk without news is not sent, but for the first, which shows that the reply has begun. A running count is news
  // with each token, also when its text is held back: so clients know when tokens came.
  const bool counted = request_.api.continuous_usage;
  if (part.text.empty() && part.num_logprobs == 0 && part.finish_reason.empty() && choice.begun && !counted) return;
  choice.begun = true;
  const Json usage_now = request_.api.continuous_usage ? to_json(usage()) : Json();
  output_ += sse_event(json_text(chunk_json(head_, std::move(part), usage_now)));
}

Usage Generation::usage() const {
  Usage usage;
  for (const PreparedPrompt& prompt : request_.prompts)
    usage.prompt_tokens += static_cast<int64_t>(prompt.tokens.size());
  for (const Choice& choice : choices_) usage.completion_tokens += choice.text.completion_tokens();
  return usage;
}

std::string Generation::take_output() {
  if (ended() && !std::exchange(closed_, true)) {
    if (error_) {
      output_ += sse_event(json_text(to_json(*error_)));
    } else if (request_.api.include_usage) {
      output_ += sse_event(json_text(usage_chunk_json(head_, usage())));
    }
    output_ += kSseDone;
  }
  return std::exchange(output_, {});
}

std::string Generation::reply_body() {
  std::vector<ChoicePart> parts;
  for (int64_t i = 0; i < num_choices(); ++i) parts.push_back(part_of(i));
  return json_text(reply_json(head_, std::move(parts), usage()));
}

}  // namespace qg
