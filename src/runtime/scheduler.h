#pragma once
// Which tokens of which sequences are computed in the next step, and in which pages: continuous batching with chunked
// prefill, prefix reuse, and preemption by recompute (docs/engine-design.md). Host only; knows no executor and no
// clock.
#include <cstdint>
#include <list>
#include <string>
#include <unordered_map>
#include <vector>

#include "runtime/engine.h"
#include "runtime/kv_pages.h"

namespace qg {

// What the scheduler must know of the executor and the model.
struct SchedulerLimits {
  int64_t page_tokens = 16;
  int64_t num_pages = 0;
  int64_t max_rows = 2048;
  int64_t vocab = 0;
  int64_t max_position = 0;  // longest sequence of the model; 0 = no limit
};

// A request under way.
struct Sequence {
  RequestId id = 0;
  Request request;              // its prompt moved to `tokens`
  std::vector<int32_t> tokens;  // the prompt, then what was generated
  int64_t prompt_tokens = 0;
  int64_t computed_tokens = 0;    // the first of them, whose K and V lie in pages
  int64_t first_time_tokens = 0;  // the most that computed_tokens ever was: rows before it are recomputed ones
  std::vector<int32_t> pages;     // page i holds tokens [i·page_tokens, (i+1)·page_tokens)
  std::vector<PageHash> hashes;   // of the first full pages, as far as they were needed yet
  int64_t published_pages = 0;    // the first of them have been offered for reuse
  bool running = false;

  int64_t num_tokens() const { return static_cast<int64_t>(tokens.size()); }
  int64_t generated_tokens() const { return num_tokens() - prompt_tokens; }
};

struct PlannedPiece {
  Sequence* sequence = nullptr;
  int64_t num_tokens = 0;  // from sequence->computed_tokens on
  bool sample = false;
};

class Scheduler {
 public:
  // Throws Error when options and limits make no sense; `options` are brought within the limits.
  Scheduler(EngineOptions options, const SchedulerLimits& limits);

  // Why the request can never run, for people; empty when it can.
  std::string refusal(const Request& request) const;
  void add(RequestId id, Request request);  // ids rise from call to call
  bool cancel(RequestId id);                // false: not here (any more). Not between plan() and the last complete()

  // The pieces of the next step; their pages are reserved in sequence->pages. Valid until the next call. Pieces that
  // are not completed are planned again.
  const std::vector<PlannedPiece>& plan();
  // A planned piece has been computed and `token` sampled after it (ignored unless piece.sample). Returns why the
  // sequence has ended, if it has: remove() must follow.
  FinishReason complete(const PlannedPiece& piece, int32_t token);
  void remove(Sequence* sequence);

  bool empty() const { return running_.empty() && waiting_.empty(); }
  const EngineOptions& options() const { return options_; }
  const EngineStats& stats();
  KvPages& pages() { return pages_; }

 private:
  void plan_decodes();
  void plan_prefills();
  void admit_waiting();
  void plan_piece(Sequence& sequence, int64_t num_tokens);
  int64_t prefill_tokens(const Sequence& sequence) const;
  bool decodes(const Sequence& sequence) const;
  bool grow(Sequence& sequence, int64_t num_tokens);
  bool start(Sequence& sequence);
  void find_prefix(Sequence& sequence);
  void hash_pages(Sequence& sequence, int64_t count);
  int64_t publishable_pages(const Sequence& sequence) const;
  void publish_full_pages(Sequence& sequence);
  void release_pages(Sequence& sequence);
  void preempt(Sequence& sequence);
  int64_t pages_for(int64_t tokens) const { return (tokens + limits_.page_tokens - 1) / limits_.page_tokens; }

  EngineOptions options_;
  SchedulerLimits limits_;
  KvPages pages_;
  PageHasher hasher_;
  // Both in the order of arrival, and everything that runs came before everything that waits.
  std::list<Sequence> running_, waiting_;
  std::unordered_map<RequestId, std::list<Sequence>::iterator> by_id_;
  std::vector<PlannedPiece> pieces_;
  std::vector<int32_t> prefix_;  // pages found by find_prefix()
  int64_t rows_left_ = 0;
  EngineStats stats_;
};

}  // namespace qg
