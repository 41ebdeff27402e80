#include "server/engine_thread.h"

#include <exception>
#include <utility>

#include "core/log.h"

namespace qg {

EngineThread::EngineThread(Engine& engine, Deliver deliver)
    : engine_(engine), deliver_(std::move(deliver)), thread_([this] { run(); }) {}

EngineThread::~EngineThread() {
  ending_ = true;
  engine_.wake();
  thread_.join();
}

RequestId EngineThread::add(Request request, std::optional<int64_t> num_top) {
  std::optional<Wanted> wanted;
  if (num_top) wanted = Wanted{*num_top, request.logits == LogitsWanted::all ? request.prompt : std::vector<int32_t>{}};
  // Under the lock, so that the request's first event finds its entry.
  const std::lock_guard lock(mutex_);
  const RequestId id = engine_.add(std::move(request));
  open_.emplace(id, std::move(wanted));
  return id;
}

void EngineThread::cancel(RequestId id) {
  engine_.cancel(id);
}

void EngineThread::run() {
  while (!ending_) {
    engine_.wait(std::chrono::milliseconds(1000));
    if (failed_steps_ > 0 && probe_ == 0 && engine_.idle()) probe();
    step();
  }
}

// After a failure nobody may ask any more (a server that says 503 gets no requests), so the engine is asked for a
// few tokens: then either the failure is over, or failures become enough to end the server.
void EngineThread::probe() {
  Request request;
  request.prompt = {0};
  request.max_tokens = 3;
  request.ignore_stop = true;
  probe_ = engine_.add(std::move(request));
}

void EngineThread::step() {
  const EngineClock::time_point start = EngineClock::now();
  // Taking requests and cancellations proves nothing, and a prompt that went well not much: the engine is good again
  // when it decodes, or when a request has come to its end (one whose logits are no numbers too: the model's fault).
  const auto completed = [this] {
    const EngineStats stats = engine_.stats();
    return stats.decode_tokens + stats.finished + stats.failed;
  };
  const int64_t before = completed();
  try {
    engine_.step([this](const TokenEvent& event) { take(event); });
    if (completed() > before) failed_steps_ = 0;
  } catch (const std::exception& e) {
    failed_steps_ = completed() > before ? 1 : failed_steps_ + 1;
    warn("a step of the engine failed: {}", e.what());
    fail_all(e.what());
  }
  busy_seconds_ = busy_seconds_ + std::chrono::duration<double>(EngineClock::now() - start).count();
  if (!events_.empty()) deliver_(std::exchange(events_, {}));
}

// The same pieces would be tried again with the same end, so everybody is told and the engine emptied.
void EngineThread::fail_all(const std::string& why) {
  std::vector<RequestId> ids;
  {
    const std::lock_guard lock(mutex_);
    for (const auto& [id, wanted] : open_) ids.push_back(id);
    open_.clear();
  }
  if (probe_ != 0) engine_.cancel(std::exchange(probe_, 0));
  for (const RequestId id : ids) {
    engine_.cancel(id);
    EngineEvent& event = events_.emplace_back();
    event.request = id;
    event.time = EngineClock::now();
    event.finish = FinishReason::refused;
    event.reason = "the engine failed: " + why;
  }
}

void EngineThread::take(const TokenEvent& event) {
  if (event.request == probe_ && event.finish != FinishReason::none) probe_ = 0;
  std::optional<int64_t> num_top;
  int32_t token = event.token;
  {
    const std::lock_guard lock(mutex_);
    const auto found = open_.find(event.request);
    if (found == open_.end()) return;  // a probe, or failed before: this is its cancellation
    if (found->second) {
      num_top = found->second->num_top;
      const std::vector<int32_t>& prompt = found->second->prompt;
      if (event.position < 0) token = prompt[prompt.size() + static_cast<size_t>(event.position)];
    }
    if (event.finish != FinishReason::none) open_.erase(found);
  }
  EngineEvent& out = events_.emplace_back();
  out.request = event.request;
  out.token = event.token;
  out.position = event.position;
  out.time = event.time;
  out.finish = event.finish;
  out.reason = event.reason;
  if (num_top && !event.logits.empty())
    out.logprobs = std::make_unique<TokenLogprobs>(token_logprobs(event.logits, token, *num_top));
}

}  // namespace qg
