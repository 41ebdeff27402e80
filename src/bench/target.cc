#include "bench/target.h"

#include <thread>

namespace qg {

int64_t NativeTarget::submit(std::vector<int32_t> prompt, int64_t output_tokens) {
  Request request;
  request.prompt = std::move(prompt);
  request.max_tokens = output_tokens;
  request.ignore_stop = true;
  return engine_.add(std::move(request));
}

bool NativeTarget::poll(EngineClock::time_point deadline, const std::function<void(const LoadEvent&)>& on_event) {
  // The engine computes in this thread: a step takes as long as it takes, and always brings events sooner or later.
  const bool worked = engine_.step([&](const TokenEvent& event) {
    LoadEvent e;
    e.request = event.request;
    e.tokens = event.token >= 0 ? 1 : 0;
    e.time = event.time;
    e.finished = event.finish != FinishReason::none;
    if (event.finish == FinishReason::refused || event.finish == FinishReason::failed) e.error = event.reason;
    on_event(e);
  });
  if (!worked && engine_.idle()) std::this_thread::sleep_until(deadline);  // until the next request arrives
  return worked;
}

int64_t NativeTarget::vocab() const {
  return engine_.executor().table().shape.vocab;
}

double NativeTarget::achieved_batch() const {
  const int64_t steps = engine_.stats().steps - steps_before_;
  return steps > 0 ? static_cast<double>(engine_.stats().batch_sum - batch_sum_before_) / static_cast<double>(steps)
                   : 0;
}

void NativeTarget::reset_statistics() {
  steps_before_ = engine_.stats().steps;
  batch_sum_before_ = engine_.stats().batch_sum;
}

std::vector<std::string> NativeTarget::kernels() const {
  return engine_.executor().kernels();
}
double NativeTarget::device_seconds() const {
  return engine_.executor().device_seconds();
}

std::string NativeTarget::compute_path() const {
  return std::string(to_string(engine_.executor().compute_path()));
}

}  // namespace qg
