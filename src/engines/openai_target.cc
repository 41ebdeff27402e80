#include "engines/openai_target.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include "bench/statistics.h"
#include "core/error.h"

namespace qg {
namespace {

double thread_cpu_seconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

}  // namespace

OpenAiTarget::OpenAiTarget(ClientOptions options, RequestDialect dialect, int64_t vocab, PromptText text)
    : client_(std::move(options)), dialect_(std::move(dialect)), vocab_(vocab), text_(std::move(text)) {
  if (!dialect_.token_prompts && !text_) throw Error("prompts are to be text, but nothing makes text of them");
  reset_statistics();
}

int64_t OpenAiTarget::submit(std::vector<int32_t> prompt, int64_t output_tokens) {
  const std::string text = dialect_.token_prompts ? std::string() : text_(prompt);
  client_.post(next_, dialect_.path(), request_body(dialect_, prompt, text, output_tokens), output_tokens);
  return next_++;
}

bool OpenAiTarget::poll(EngineClock::time_point deadline, const std::function<void(const LoadEvent&)>& on_event) {
  const bool waiting = client_.in_flight() > 0;
  client_.run_until(deadline);
  const std::vector<StreamEvent> events = client_.take_events();
  for (const StreamEvent& event : events) {
    LoadEvent load;
    load.request = event.request;
    load.tokens = event.tokens;
    load.time = event.time;
    load.finished = event.finished;
    load.error = event.error;
    on_event(load);
  }
  return waiting || !events.empty();
}

void OpenAiTarget::reset_statistics() {
  client_.reset_counts();
  client_.reset_lag();
  cpu_before_s_ = thread_cpu_seconds();
  since_ = EngineClock::now();
}

OpenAiTarget::Overhead OpenAiTarget::overhead() const {
  Overhead overhead;
  if (const std::vector<double>& lag = client_.lag_ms(); !lag.empty()) {
    overhead.lag_ms_p50 = quantile(lag, 0.5);
    overhead.lag_ms_p99 = quantile(lag, 0.99);
    overhead.lag_ms_max = *std::max_element(lag.begin(), lag.end());
  }
  const double wall = std::chrono::duration<double>(EngineClock::now() - since_).count();
  if (wall > 0) overhead.cpu_share = (thread_cpu_seconds() - cpu_before_s_) / wall;
  return overhead;
}

}  // namespace qg
