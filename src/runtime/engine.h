#pragma once
// The engine: takes requests, gives tokens. Queue, KV pages and scheduler are host code that knows no executor; each
// call of step() plans one batch: decode tokens first, the rest of the token budget goes to prefill chunks. With an
// executor that can, it is sent off while the one before still runs (docs/engine-design.md).
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/executor.h"

namespace qg {

using RequestId = int64_t;
using EngineClock = std::chrono::steady_clock;

// refused: it can never run; failed: its logits were not finite numbers.
enum class FinishReason { none, stop, length, cancelled, refused, failed };
std::string_view to_string(FinishReason reason);

struct Request {
  std::vector<int32_t> prompt;
  int64_t max_tokens = 16;           // 0: the prompt is computed and nothing is generated
  std::vector<int32_t> stop_tokens;  // generation ends after one of these (which is given out too)
  bool ignore_stop = false;          // for benchmarks: always max_tokens
  SamplingParams sampling;
  // sampled: each token comes with the logits that it was drawn from. all: every prompt row's logits too, each in an
  // event of its own; such a request reuses no cached prefix, and its steps bring rows × vocab floats to the host.
  LogitsWanted logits = LogitsWanted::none;
};

// One token, or the end of a request. Each request ends with exactly one event whose `finish` is not none; the last
// token and the end come together.
struct TokenEvent {
  RequestId request = 0;
  int32_t token = -1;            // -1: none with this event
  int64_t position = 0;          // 0 for the first generated token; < 0 for a prompt row (logits all)
  EngineClock::time_point time;  // when the host had the results of the step that made it
  FinishReason finish = FinishReason::none;
  std::string reason;             // why it was refused or failed, for people
  std::span<const float> logits;  // [vocab] when asked for; valid during the callback only
};

struct EngineOptions {
  int64_t max_batch = 256;      // sequences with rows in a step; at most max_rows
  int64_t max_rows = 2048;      // tokens a step; at most the executor's
  int64_t prefill_chunk = 512;  // most prompt tokens of one sequence a step
  bool prefix_reuse = true;
  // Each request is cut into the same pieces whatever else runs, so that with an executor made for it
  // (ExecutorOptions::deterministic) its tokens and logits do not depend on the batch, to the bit.
  bool deterministic = false;
};

struct EngineStats {
  // Rows computed for the first time: of prompts, of generated tokens. reused: prompt tokens found in cached pages
  // instead. Over requests that ran to their end, prefill + reused = Σ prompt tokens.
  int64_t steps = 0, prefill_tokens = 0, decode_tokens = 0, reused_tokens = 0, preemptions = 0;
  int64_t recomputed_tokens = 0;  // rows computed again after a preemption
  int64_t discarded_tokens = 0;   // rows that were on their way when their request ended
  int64_t running = 0, waiting = 0, pages_used = 0, pages_total = 0;
  int64_t pages_cached = 0;  // unreferenced, kept for reuse, taken when needed
  int64_t batch_sum = 0;     // Σ sequences over steps: batch_sum / steps is the achieved batch
  // Requests that ended: by themselves, by cancel(), at once, by logits that are no numbers.
  int64_t finished = 0, cancelled = 0, refused = 0, failed = 0;
};

// One thread calls step(); add(), cancel(), idle(), stats(), wait() and wake() are safe from any thread, and from
// inside on_event. on_event must not throw.
class Engine {
 public:
  // Throws Error when the options make no sense.
  Engine(std::shared_ptr<Executor> executor, EngineOptions options);
  ~Engine();

  // Requests start in the order of their ids. One that can never fit ends in the next step, refused with a reason.
  RequestId add(Request request);
  // Ends the request at the beginning of the next step, and frees its pages when no step that is under way uses them;
  // ids that are gone already are ignored.
  void cancel(RequestId id);
  bool idle() const;  // every request has ended, its last event has been given out, and no step is under way
  // Sends one batch off and gives out the results of one, which is the one before where the executor runs ahead (so the
  // first call may bring no event); events in order. Returns false when there was nothing to do. When the executor
  // throws, the error comes out of here and no request is lost: the next step() tries the same again.
  bool step(const std::function<void(const TokenEvent&)>& on_event);
  // Sleeps until there is something for step() to do, wake() is called or the time is over; true in the first case.
  bool wait(std::chrono::milliseconds limit);
  void wake();

  EngineStats stats() const;  // as of the end of the last step
  Executor& executor();
  const EngineOptions& options() const;  // as in force, after limits by the executor

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace qg
