#pragma once
// The engine: takes requests, gives tokens. Queue, KV block manager and scheduler are host code that knows no executor;
// each call of step() runs one batch: decode tokens first, the rest of the token budget goes to prefill chunks.
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/executor.h"

namespace qg {

using RequestId = int64_t;
using EngineClock = std::chrono::steady_clock;

enum class FinishReason { none, stop, length, cancelled, refused };
std::string_view to_string(FinishReason reason);

struct Request {
  std::vector<int32_t> prompt;
  int64_t max_tokens = 16;
  std::vector<int32_t> stop_tokens;  // generation ends after one of these
  bool ignore_stop = false;          // for benchmarks: always max_tokens
  SamplingParams sampling;
  LogitsWanted logits = LogitsWanted::none;
};

// One token, or the end of a request.
struct TokenEvent {
  RequestId request = 0;
  int32_t token = -1;                    // -1: none with this event
  int64_t position = 0;                  // 0 for the first generated token
  EngineClock::time_point time;          // when the step that made it ended
  FinishReason finish = FinishReason::none;
  std::string reason;                    // why it was refused, for people
  std::span<const float> logits;         // [vocab] when asked for; valid during the callback only
};

struct EngineOptions {
  int64_t max_batch = 256;          // running sequences
  int64_t max_rows = 2048;          // tokens a step
  int64_t prefill_chunk = 512;      // most prompt tokens of one sequence a step
  bool prefix_reuse = true;
  bool deterministic = false;       // results do not depend on the batch, to the bit
};

struct EngineStats {
  int64_t steps = 0, prefill_tokens = 0, decode_tokens = 0, reused_tokens = 0, preemptions = 0;
  int64_t running = 0, waiting = 0, pages_used = 0, pages_total = 0;
  int64_t batch_sum = 0;  // Σ sequences over steps: batch_sum / steps is the achieved batch
};

class Engine {
 public:
  Engine(std::unique_ptr<Executor> executor, EngineOptions options);
  ~Engine();

  RequestId add(Request request);   // a request that can never fit ends at once, refused with a reason
  void cancel(RequestId id);
  bool idle() const;                // nothing waits, nothing runs
  // One batch; events in order. Returns false when there was nothing to do.
  bool step(const std::function<void(const TokenEvent&)>& on_event);

  const EngineStats& stats() const;
  Executor& executor();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace qg
