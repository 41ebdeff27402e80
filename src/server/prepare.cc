#include "server/prepare.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "core/error.h"

namespace qg {
namespace {

constexpr int64_t kDefaultCompletionTokens = 16;  // as OpenAI has it

void require_model(const ApiRequest& request, const ServedModel& model) {
  if (request.model == model.name) return;
  throw ApiError(
      404,
      fmt::format("the model \"{}\" is not here; this server has \"{}\"", request.model.substr(0, 100), model.name),
      "model", "model_not_found");
}

void require_tokens(const std::vector<int32_t>& tokens, const ServedModel& model, const char* param) {
  for (const int32_t token : tokens)
    if (token < 0 || token >= model.vocab)
      throw ApiError(400, fmt::format("{} holds token {}, the vocabulary has {}", param, token, model.vocab), param);
}

PreparedPrompt prepared(PromptInput input, const ApiRequest& request, const ServedModel& model) {
  PreparedPrompt prompt;
  if (auto* text = std::get_if<std::string>(&input)) {
    // One byte is at least a 64th of a token in every tokenizer that is read here, so this refuses only what is far too
    // long, before time is spent on it.
    if (static_cast<int64_t>(text->size()) / 64 > model.max_prompt_tokens)
      throw ApiError(400,
                     fmt::format("a prompt of {} bytes is more than {} tokens", text->size(), model.max_prompt_tokens),
                     "prompt", "context_length_exceeded");
    prompt.tokens = model.tokenizer.encode(*text, true);
    prompt.text = std::move(*text);
  } else {
    prompt.tokens = std::move(std::get<std::vector<int32_t>>(input));
    require_tokens(prompt.tokens, model, "prompt");
    if (request.echo) prompt.text = model.tokenizer.decode(prompt.tokens, request.skip_special_tokens);
  }
  return prompt;
}

PreparedPrompt conversation(const ApiRequest& request, const ServedModel& model) {
  PreparedPrompt prompt;
  try {
    prompt.tokens = model.tokenizer.encode(render_chat(model.tokenizer, request.messages, true), false);
  } catch (const Error& e) {
    throw ApiError(400, e.problem() + (e.fix().empty() ? "" : "; " + e.fix()), "messages");
  }
  return prompt;
}

// How long a reply may be, given the longest prompt.
int64_t reply_tokens(const PreparedRequest& request, const ServedModel& model, const char* param) {
  int64_t longest = 0;
  for (const PreparedPrompt& prompt : request.prompts) {
    if (prompt.tokens.empty()) throw ApiError(400, "the prompt holds no token", param);
    longest = std::max(longest, static_cast<int64_t>(prompt.tokens.size()));
  }
  if (longest > model.max_prompt_tokens)
    throw ApiError(
        400, fmt::format("the prompt has {} tokens, this server takes up to {}", longest, model.max_prompt_tokens),
        param, "context_length_exceeded");
  const int64_t room = model.max_tokens - longest;
  const bool chat = request.api.kind == ApiKind::chat;
  const int64_t wanted = request.api.max_tokens.value_or(chat ? room : kDefaultCompletionTokens);
  if (wanted > room || (chat && room < 1))
    throw ApiError(400,
                   fmt::format("{} prompt tokens and up to {} new ones are more than the {} that fit; shorten the "
                               "prompt or give a smaller max_tokens",
                               longest, wanted, model.max_tokens),
                   "max_tokens", "context_length_exceeded");
  return wanted;
}

}  // namespace

PreparedRequest prepare(ApiKind kind, std::string_view body, const ServedModel& model) {
  PreparedRequest request;
  request.api = kind == ApiKind::chat ? parse_chat_request(body, model.max_choices)
                                      : parse_completion_request(body, model.max_choices);
  require_model(request.api, model);
  require_tokens(request.api.stop_token_ids, model, "stop_token_ids");
  if (kind == ApiKind::chat) {
    request.prompts.push_back(conversation(request.api, model));
  } else {
    for (PromptInput& input : request.api.prompts)
      request.prompts.push_back(prepared(std::move(input), request.api, model));
    request.api.prompts.clear();
  }
  request.max_tokens = reply_tokens(request, model, kind == ApiKind::chat ? "messages" : "prompt");
  return request;
}

}  // namespace qg
