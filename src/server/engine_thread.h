#pragma once
// The engine on a thread of its own. Whoever adds requests never waits for a step; what a step brings is handed over as
// one list, so that a batch of hundreds of sequences costs one wake-up of the event loop.
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "runtime/engine.h"
#include "server/token_logprobs.h"

namespace qg {

// A TokenEvent that outlives the step: what was wanted of the logits in place of the logits.
struct EngineEvent {
  RequestId request = 0;
  int32_t token = -1;    // -1: none with this event
  int64_t position = 0;  // < 0 for a prompt row, as in TokenEvent
  EngineClock::time_point time;
  FinishReason finish = FinishReason::none;
  std::string reason;
  std::unique_ptr<TokenLogprobs> logprobs;
};

// Several steps in a row have failed: the engine will not come back by itself.
inline constexpr int kMostFailedSteps = 3;

class EngineThread {
 public:
  using Deliver = std::function<void(std::vector<EngineEvent>)>;

  // deliver: called on the engine's thread after each step that brought something; must not throw or block.
  EngineThread(Engine& engine, Deliver deliver);
  ~EngineThread();  // ends the thread after its current step; requests are not waited for

  // num_top: how many likeliest tokens come with each token; request.logits says which rows. Any thread.
  RequestId add(Request request, std::optional<int64_t> num_top);
  void cancel(RequestId id);

  Engine& engine() { return engine_; }
  double busy_seconds() const { return busy_seconds_.load(std::memory_order_relaxed); }  // spent in steps
  int failed_steps() const { return failed_steps_.load(std::memory_order_relaxed); }     // since the last good one

 private:
  struct Wanted {
    int64_t num_top = 0;
    std::vector<int32_t> prompt;  // for logprobs of a prompt's own tokens
  };

  void run();
  void probe();
  void step();
  void take(const TokenEvent& event);
  void fail_all(const std::string& why);

  Engine& engine_;
  Deliver deliver_;
  std::vector<EngineEvent> events_;  // of the current step
  RequestId probe_ = 0;              // under way; 0: none

  std::mutex mutex_;                                           // of open_, never held during a step
  std::unordered_map<RequestId, std::optional<Wanted>> open_;  // requests that have not ended
  std::atomic<bool> ending_ = false;
  std::atomic<double> busy_seconds_ = 0;
  std::atomic<int> failed_steps_ = 0;
  std::thread thread_;
};

}  // namespace qg
