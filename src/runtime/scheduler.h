#pragma once
// Which tokens of which sequences are computed in the next step, and in which pages: continuous batching with chunked
// prefill, prefix reuse, and preemption by recompute (docs/engine-design.md). Host only; knows no executor and no
// clock. A step may be planned while the one before it is under way: the plan counts on what that one will have
// computed.
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
  std::vector<int32_t> tokens;  // the prompt, then what was generated, as far as it is known
  int64_t prompt_tokens = 0;
  int64_t computed_tokens = 0;    // the first of them, whose K and V lie in pages
  int64_t sent_tokens = 0;        // those, and what is being computed
  int64_t awaited_tokens = 0;     // to be sampled by steps under way: they follow `tokens`
  int64_t pieces_under_way = 0;   // of it, sent and not completed
  int64_t last_piece = -1;        // its place in the last step that was sent with a piece of it
  int64_t first_time_tokens = 0;  // the most that computed_tokens ever was: rows before it are recomputed ones
  std::vector<int32_t> pages;     // page i holds tokens [i·page_tokens, (i+1)·page_tokens)
  std::vector<PageHash> hashes;   // of the first full pages, as far as they were needed yet
  int64_t published_pages = 0;    // the first of them have been offered for reuse
  bool running = false;
  bool ended = false;  // removed while pieces of it are under way

  int64_t num_tokens() const { return static_cast<int64_t>(tokens.size()); }
  int64_t generated_tokens() const { return num_tokens() - prompt_tokens; }
  // Its last token is on its way, unless one that stops it comes before: there is nothing left to plan.
  bool spent() const { return awaited_tokens > 0 && generated_tokens() + awaited_tokens >= request.max_tokens; }
  int64_t rows_to_send() const { return spent() ? 0 : num_tokens() + awaited_tokens - sent_tokens; }
};

struct PlannedPiece {
  Sequence* sequence = nullptr;
  int64_t begin = 0;  // position of its first token
  int64_t num_tokens = 0;
  bool sample = false;
};

class Scheduler {
 public:
  // Throws Error when options and limits make no sense; `options` are brought within the limits.
  Scheduler(EngineOptions options, const SchedulerLimits& limits);

  // Why the request can never run, for people; empty when it can.
  std::string refusal(const Request& request) const;
  void add(RequestId id, Request request);  // ids rise from call to call
  bool cancel(RequestId id);                // false: not here (any more). Not between plan() and sent()

  // Whether plan() may be called while a step is under way. Not when a running sequence would have to give way: who
  // does, and what it has to compute again, is decided when all tokens are known and nobody uses its pages.
  bool can_plan_ahead() const;
  // The pieces of the next step; their pages are reserved in sequence->pages. Valid until the next call. Pieces that
  // are not sent are planned again. A token that is not known yet is the one sampled by piece sequence->last_piece of
  // the step sent before.
  const std::vector<PlannedPiece>& plan();
  // What was planned is under way. Each of its pieces must be completed or discarded, in order, or all of them be taken
  // back.
  void sent();
  // A piece has been computed and `token` sampled after it (ignored unless piece.sample). Returns why the sequence has
  // ended, if it has: remove() must follow.
  FinishReason complete(const PlannedPiece& piece, int32_t token);
  // A piece has been computed, and nothing could be sampled after it: the sequence ends and is gone as after remove().
  void fail(const PlannedPiece& piece);
  // A piece of a sequence that has ended has been computed. The sequence is gone after its last piece, its pages free.
  void discard(const PlannedPiece& piece);
  // What was sent and not completed will never be: it is planned again. Nothing may use pages any more.
  void take_back();
  void remove(Sequence* sequence);

  // Some sequence's logits go to the host.
  bool logits_wanted() const { return logits_wanted_ > 0; }
  bool empty() const { return running_.empty() && waiting_.empty(); }
  const EngineOptions& options() const { return options_; }
  const EngineStats& stats();
  KvPages& pages() { return pages_; }

 private:
  void plan_decodes();
  void plan_prefills();
  void admit_waiting();
  void plan_piece(Sequence& sequence, int64_t num_tokens);
  int64_t active() const { return static_cast<int64_t>(running_.size()) - spent_; }
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
  std::list<Sequence> leaving_;  // ended, with pieces under way
  std::unordered_map<RequestId, std::list<Sequence>::iterator> by_id_;
  std::vector<PlannedPiece> pieces_;
  std::vector<int32_t> prefix_;  // pages found by find_prefix()
  int64_t rows_left_ = 0;
  int64_t spent_ = 0;  // running sequences that have no row in this plan or any later one
  int64_t pieces_under_way_ = 0, logits_wanted_ = 0;
  EngineStats stats_;
};

}  // namespace qg
