#include "runtime/scheduler.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "core/error.h"

namespace qg {
namespace {

EngineOptions within_limits(EngineOptions options, const SchedulerLimits& limits) {
  const auto at_least_one = [](int64_t value, const char* name) {
    if (value < 1)
      throw Error(fmt::format("{} is {}", name, value), "engine options", fmt::format("give {} of 1 or more", name));
  };
  at_least_one(options.max_batch, "max_batch");
  at_least_one(options.max_rows, "max_rows");
  at_least_one(options.prefill_chunk, "prefill_chunk");
  at_least_one(limits.page_tokens, "page_tokens");
  at_least_one(limits.max_rows, "the executor's max_rows");
  options.max_rows = std::min(options.max_rows, limits.max_rows);
  options.max_batch = std::min(options.max_batch, options.max_rows);  // so that every running sequence can decode
  options.prefill_chunk = std::min(options.prefill_chunk, options.max_rows);
  if (!options.deterministic) return options;

  // Chunks have one length whatever else runs, so there must be room for one beside all that decode; whole pages, so
  // that a chunk's pages can be reused.
  int64_t& chunk = options.prefill_chunk;
  chunk = std::min(chunk, std::max<int64_t>(1, options.max_rows / 2));
  if (chunk >= limits.page_tokens)
    chunk -= chunk % limits.page_tokens;
  else
    options.prefix_reuse = false;
  options.max_batch = std::clamp<int64_t>(options.max_rows - chunk, 1, options.max_batch);
  return options;
}

}  // namespace

Scheduler::Scheduler(EngineOptions options, const SchedulerLimits& limits)
    : options_(within_limits(options, limits)), limits_(limits), pages_(limits.num_pages) {
  stats_.pages_total = limits.num_pages;
}

std::string Scheduler::refusal(const Request& request) const {
  if (request.prompt.empty()) return "the prompt is empty";
  for (const int32_t token : request.prompt)
    if (token < 0 || token >= limits_.vocab)
      return fmt::format("the prompt holds token {}, the model's vocabulary has {}", token, limits_.vocab);
  if (request.max_tokens < 0) return fmt::format("max_tokens is {}", request.max_tokens);
  const SamplingParams& sampling = request.sampling;
  if (!(sampling.temperature >= 0) || !std::isfinite(sampling.temperature))
    return fmt::format("temperature is {}, wanted 0 or more", sampling.temperature);
  if (!(sampling.top_p > 0 && sampling.top_p <= 1))
    return fmt::format("top_p is {}, wanted more than 0 and at most 1", sampling.top_p);
  if (sampling.top_k < 0) return fmt::format("top_k is {}, wanted 0 (all) or more", sampling.top_k);

  const int64_t prompt = static_cast<int64_t>(request.prompt.size());
  const auto too_long = [&](int64_t room, const std::string& what) {
    return fmt::format("{} prompt tokens and up to {} new ones are more than {}", prompt, request.max_tokens,
                       fmt::format(fmt::runtime(what), room));
  };
  if (limits_.max_position > 0 && (prompt > limits_.max_position || request.max_tokens > limits_.max_position - prompt))
    return too_long(limits_.max_position, "the {} that the model was made for");
  // The last generated token is given out and never computed, so it needs no place.
  const int64_t room = limits_.num_pages * limits_.page_tokens;
  if (prompt > room || request.max_tokens - 1 > room - prompt)
    return too_long(room, "the {} for which the KV cache has memory");
  return {};
}

void Scheduler::add(RequestId id, Request request) {
  waiting_.emplace_back();
  Sequence& sequence = waiting_.back();
  sequence.id = id;
  sequence.tokens = std::move(request.prompt);
  sequence.prompt_tokens = sequence.num_tokens();
  sequence.request = std::move(request);
  logits_wanted_ += sequence.request.logits != LogitsWanted::none;
  by_id_[id] = std::prev(waiting_.end());
}

bool Scheduler::cancel(RequestId id) {
  const auto found = by_id_.find(id);
  if (found == by_id_.end()) return false;
  remove(&*found->second);
  return true;
}

void Scheduler::remove(Sequence* sequence) {
  const auto found = by_id_.find(sequence->id);
  const auto place = found->second;
  by_id_.erase(found);
  logits_wanted_ -= sequence->request.logits != LogitsWanted::none;
  std::list<Sequence>& list = sequence->running ? running_ : waiting_;
  if (sequence->pieces_under_way > 0) {
    sequence->ended = true;
    leaving_.splice(leaving_.end(), list, place);
    return;
  }
  release_pages(*sequence);
  list.erase(place);
}

const std::vector<PlannedPiece>& Scheduler::plan() {
  pieces_.clear();
  rows_left_ = options_.max_rows;
  plan_decodes();
  plan_prefills();
  admit_waiting();
  if (!pieces_.empty()) ++stats_.steps;
  stats_.batch_sum += static_cast<int64_t>(pieces_.size());
  return pieces_;
}

// One token is to be computed. Deterministic: generated tokens are computed one at a time, as they were the first time,
// even when several of them are known after a preemption.
bool Scheduler::decodes(const Sequence& sequence) const {
  const int64_t rows = sequence.rows_to_send();
  if (options_.deterministic) return rows > 0 && sequence.sent_tokens >= sequence.prompt_tokens;
  return rows == 1;
}

bool Scheduler::can_plan_ahead() const {
  int64_t wanted = 0;
  for (const Sequence& sequence : running_)
    if (decodes(sequence)) wanted += pages_for(sequence.sent_tokens + 1) > static_cast<int64_t>(sequence.pages.size());
  return wanted <= pages_.available();
}

void Scheduler::plan_decodes() {
  spent_ = 0;
  for (auto it = running_.begin(); it != running_.end(); ++it) {
    spent_ += it->spent();
    if (!decodes(*it)) continue;
    // Sequences behind this one may be preempted here; when it is itself the newest, it was the last to look at.
    if (!grow(*it, it->sent_tokens + 1)) break;
    plan_piece(*it, 1);
  }
}

void Scheduler::plan_prefills() {
  for (Sequence& sequence : running_) {
    if (rows_left_ == 0) return;
    if (decodes(sequence)) continue;
    plan_piece(sequence, prefill_tokens(sequence));
  }
}

// Strictly in order: a long request at the front is not overtaken, so it cannot starve. What was preempted for this
// step cannot come back in it: it needs all the pages that it gave up, and one of them is taken. A sequence whose last
// token is on its way has no row any more, so it takes no place in the batch.
void Scheduler::admit_waiting() {
  while (rows_left_ > 0 && !waiting_.empty() && active() < options_.max_batch) {
    Sequence& sequence = waiting_.front();
    if (prefill_tokens(sequence) == 0 || !start(sequence)) return;
    running_.splice(running_.end(), waiting_, waiting_.begin());
    sequence.running = true;
    plan_piece(sequence, prefill_tokens(sequence));
  }
}

void Scheduler::plan_piece(Sequence& sequence, int64_t num_tokens) {
  if (num_tokens == 0) return;
  const int64_t begin = sequence.sent_tokens, end = begin + num_tokens;
  pieces_.push_back({&sequence, begin, num_tokens, end == sequence.num_tokens() + sequence.awaited_tokens});
  rows_left_ -= num_tokens;
}

void Scheduler::sent() {
  for (size_t i = 0; i < pieces_.size(); ++i) {
    Sequence& sequence = *pieces_[i].sequence;
    sequence.sent_tokens += pieces_[i].num_tokens;
    sequence.awaited_tokens += pieces_[i].sample;
    sequence.last_piece = static_cast<int64_t>(i);
    ++sequence.pieces_under_way;
  }
  pieces_under_way_ += static_cast<int64_t>(pieces_.size());
}

void Scheduler::take_back() {
  for (Sequence& sequence : running_) {
    sequence.sent_tokens = sequence.computed_tokens;
    sequence.awaited_tokens = sequence.pieces_under_way = 0;
  }
  for (Sequence& sequence : leaving_) release_pages(sequence);
  leaving_.clear();
  pieces_under_way_ = 0;
  // Where a last token was on its way, another sequence may have started: its place is wanted again.
  while (static_cast<int64_t>(running_.size()) > options_.max_batch) preempt(running_.back());
}

// Tokens of the sequence's next chunk; 0 when there are none, or when it must wait for room (deterministic only).
int64_t Scheduler::prefill_tokens(const Sequence& sequence) const {
  const int64_t begin = sequence.sent_tokens, remaining = sequence.rows_to_send();
  if (remaining == 0) return 0;
  if (options_.deterministic) {
    const int64_t chunk = std::min(options_.prefill_chunk, sequence.prompt_tokens - begin);
    return chunk <= rows_left_ ? chunk : 0;
  }
  const int64_t chunk = std::min({remaining, options_.prefill_chunk, rows_left_});
  if (chunk == remaining) return chunk;
  const int64_t whole_pages = (begin + chunk) / limits_.page_tokens * limits_.page_tokens - begin;
  return whole_pages > 0 ? whole_pages : chunk;
}

// Pages for the first num_tokens tokens; the newest sequences give theirs up when there are not enough. False when that
// was this sequence itself.
bool Scheduler::grow(Sequence& sequence, int64_t num_tokens) {
  const int64_t wanted = pages_for(num_tokens);
  while (static_cast<int64_t>(sequence.pages.size()) < wanted) {
    if (pages_.available() > 0) {
      sequence.pages.push_back(pages_.take());
      continue;
    }
    Sequence& newest = running_.back();
    preempt(newest);
    if (&newest == &sequence) return false;
  }
  return true;
}

// Gives a waiting sequence the pages of all its tokens, those of a known prefix shared; false when there are too few.
bool Scheduler::start(Sequence& sequence) {
  // Each sequence, this one too, should be able to begin one more page before anybody has to give way.
  const int64_t headroom = running_.empty() ? 0 : active() + 1;
  if (pages_.available() < headroom + 1) return false;
  find_prefix(sequence);
  int64_t taken = pages_for(sequence.num_tokens()) - static_cast<int64_t>(prefix_.size());
  for (const int32_t page : prefix_) taken += pages_.references(page) == 0;
  if (pages_.available() < taken + headroom) return false;

  for (const int32_t page : prefix_) pages_.share(page);
  sequence.pages = prefix_;
  sequence.published_pages = static_cast<int64_t>(prefix_.size());
  sequence.computed_tokens = sequence.sent_tokens = sequence.published_pages * limits_.page_tokens;
  stats_.reused_tokens +=
      std::max<int64_t>(0, std::min(sequence.computed_tokens, sequence.prompt_tokens) - sequence.first_time_tokens);
  sequence.first_time_tokens = std::max(sequence.first_time_tokens, sequence.computed_tokens);
  grow(sequence, sequence.num_tokens());
  return true;
}

// prefix_ = the published pages that the sequence begins with. At least its last token is always computed, in a page
// of its own: that is where the next token's logits come from.
void Scheduler::find_prefix(Sequence& sequence) {
  prefix_.clear();
  if (!options_.prefix_reuse || sequence.request.logits == LogitsWanted::all) return;
  int64_t most = (sequence.num_tokens() - 1) / limits_.page_tokens;
  if (options_.deterministic)
    most = (sequence.prompt_tokens - 1) / options_.prefill_chunk * options_.prefill_chunk / limits_.page_tokens;
  for (int64_t i = 0; i < most; ++i) {
    hash_pages(sequence, i + 1);
    const int32_t page = pages_.find(sequence.hashes[i]);
    if (page < 0) break;
    prefix_.push_back(page);
  }
  if (options_.deterministic) {
    const size_t pages_per_chunk = options_.prefill_chunk / limits_.page_tokens;
    prefix_.resize(prefix_.size() / pages_per_chunk * pages_per_chunk);
  }
}

void Scheduler::hash_pages(Sequence& sequence, int64_t count) {
  for (int64_t i = static_cast<int64_t>(sequence.hashes.size()); i < count; ++i) {
    const std::span<const int32_t> tokens(sequence.tokens.data() + i * limits_.page_tokens, limits_.page_tokens);
    sequence.hashes.push_back(hasher_.next(i == 0 ? PageHash{} : sequence.hashes.back(), tokens));
  }
}

// Deterministic: only pages of whole prompt chunks, so that whoever reuses them has exactly what it would compute.
int64_t Scheduler::publishable_pages(const Sequence& sequence) const {
  if (!options_.prefix_reuse) return 0;
  int64_t tokens = sequence.computed_tokens;
  if (options_.deterministic)
    tokens = std::min(tokens, sequence.prompt_tokens / options_.prefill_chunk * options_.prefill_chunk);
  return tokens / limits_.page_tokens;
}

void Scheduler::publish_full_pages(Sequence& sequence) {
  const int64_t full = publishable_pages(sequence);
  if (full <= sequence.published_pages) return;
  hash_pages(sequence, full);
  for (int64_t& i = sequence.published_pages; i < full; ++i) pages_.publish(sequence.pages[i], sequence.hashes[i]);
}

FinishReason Scheduler::complete(const PlannedPiece& piece, int32_t token) {
  Sequence& sequence = *piece.sequence;
  --sequence.pieces_under_way;
  --pieces_under_way_;
  for (int64_t row = piece.begin; row < piece.begin + piece.num_tokens; ++row)
    ++(row < sequence.first_time_tokens ? stats_.recomputed_tokens
       : row < sequence.prompt_tokens   ? stats_.prefill_tokens
                                        : stats_.decode_tokens);
  sequence.computed_tokens = piece.begin + piece.num_tokens;
  sequence.first_time_tokens = std::max(sequence.first_time_tokens, sequence.computed_tokens);
  publish_full_pages(sequence);
  if (!piece.sample) return FinishReason::none;

  --sequence.awaited_tokens;
  const Request& request = sequence.request;
  if (request.max_tokens == 0) return FinishReason::length;
  sequence.tokens.push_back(token);
  if (!request.ignore_stop && std::ranges::find(request.stop_tokens, token) != request.stop_tokens.end())
    return FinishReason::stop;
  return sequence.generated_tokens() == request.max_tokens ? FinishReason::length : FinishReason::none;
}

// What is no number spreads within a tile of an attention kernel (0 * NaN), to earlier tokens too: nobody is to reuse
// the sequence's pages, whether it wrote them or found them.
void Scheduler::fail(const PlannedPiece& piece) {
  for (const int32_t page : piece.sequence->pages) pages_.unpublish(page);
  --piece.sequence->pieces_under_way;
  --pieces_under_way_;
  stats_.discarded_tokens += piece.num_tokens;
  remove(piece.sequence);
}

void Scheduler::discard(const PlannedPiece& piece) {
  Sequence& sequence = *piece.sequence;
  --pieces_under_way_;
  stats_.discarded_tokens += piece.num_tokens;
  if (--sequence.pieces_under_way > 0) return;
  release_pages(sequence);
  leaving_.remove_if([&](const Sequence& other) { return &other == &sequence; });
}

void Scheduler::release_pages(Sequence& sequence) {
  for (auto page = sequence.pages.rbegin(); page != sequence.pages.rend(); ++page) pages_.release(*page);
  sequence.pages.clear();
  sequence.published_pages = 0;
}

void Scheduler::preempt(Sequence& sequence) {
  if (pieces_under_way_ > 0)
    throw Error("internal error: a sequence gives way while a step is under way", "scheduler", "please report this");
  release_pages(sequence);
  sequence.computed_tokens = sequence.sent_tokens = 0;
  sequence.running = false;
  waiting_.splice(waiting_.begin(), running_, by_id_.at(sequence.id));
  ++stats_.preemptions;
}

const EngineStats& Scheduler::stats() {
  stats_.running = static_cast<int64_t>(running_.size());
  stats_.waiting = static_cast<int64_t>(waiting_.size());
  stats_.pages_used = pages_.used();
  stats_.pages_cached = pages_.cached();
  return stats_;
}

}  // namespace qg
