#include "bench/steady.h"

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/rng.h"

namespace qg {
namespace {

constexpr uint64_t kDepthStream = 0xdeb7;
constexpr int kSlices = 10;

class SteadyRun {
 public:
  SteadyRun(LoadTarget& target, const Load& load, const std::function<void(int64_t)>& on_token,
            const std::function<void()>& on_start)
      : target_(target), load_(load), on_token_(on_token), on_start_(on_start) {}

  BenchResult run() {
    for (int64_t i = 0; i < load_.batch; ++i) starting_.insert(offer(start_depth(load_, i)));
    // A place that becomes free is filled in the same step.
    const int64_t waiting = std::max<int64_t>(1, load_.batch / 8);
    while (!is_over()) {
      stop_if_interrupted("finished cases stay, this measurement starts again");
      while (static_cast<int64_t>(requests_.size()) < load_.batch + waiting) offer(0);
      if (!target_.poll(EngineClock::now() + std::chrono::seconds(1), [&](const LoadEvent& e) { take(e); }))
        throw Error("the engine lost " + std::to_string(requests_.size()) + " requests");
      if (result_.failed >= std::min<int64_t>(load_.batch, 8) && result_.failed == result_.requests)
        throw Error("every request failed: " + result_.first_error, load_.name);
    }
    return finish();
  }

 private:
  struct Running {
    double first = -1, last = -1;  // in seconds since the first event; -1: no token yet
    int64_t tokens = 0;
    bool in_window = false;  // its first token came in the window
  };

  int64_t offer(int64_t depth) {
    Load one = load_;
    one.isl = load_.isl + depth;
    const int64_t id = target_.submit(load_prompt(one, next_index_++, target_.vocab()), load_.osl - depth);
    requests_[id];
    return id;
  }

  bool is_over() const { return begin_ && now_ >= *begin_ + load_.window_s; }

  void take(const LoadEvent& event) {
    const auto it = requests_.find(event.request);
    if (it == requests_.end()) return;
    if (!zero_) zero_ = event.time;
    now_ = std::max(now_, std::chrono::duration<double>(event.time - *zero_).count());
    Running& r = it->second;
    if (event.tokens > 0) count(r, event.tokens);
    if (event.finished) {
      if (r.in_window || !event.error.empty()) ++result_.requests;
      if (!event.error.empty()) {
        ++result_.failed;
        if (result_.first_error.empty()) result_.first_error = event.error;
      } else if (r.in_window && r.tokens > 1) {
        tpot_.push_back((r.last - r.first) * 1e3 / static_cast<double>(r.tokens - 1));
      }
      requests_.erase(it);
    }
    if (event.tokens > 0 || event.finished) starting_.erase(event.request);
    if (starting_.empty() && !begin_) start_window();
  }

  void count(Running& r, int64_t tokens) {
    on_token_(tokens);
    if (r.tokens == 0) {
      r.first = now_;
      r.in_window = begin_.has_value();
    } else if (begin_) {
      itl_.push_back((now_ - r.last) * 1e3);
    }
    r.last = now_;
    r.tokens += tokens;
    if (!begin_ || now_ > *begin_ + load_.window_s) return;
    const auto slice = static_cast<size_t>((now_ - *begin_) / load_.window_s * kSlices);
    slices_[std::min<size_t>(slice, kSlices - 1)] += static_cast<double>(tokens);
    result_.output_tokens += tokens;
    result_.window_tokens += tokens;
  }

  void start_window() {
    begin_ = now_;
    target_.reset_statistics();
    device_before_ = target_.device_seconds();
    wall_before_ = EngineClock::now();
    if (on_start_) on_start_();
  }

  BenchResult finish() {
    const double wall = std::chrono::duration<double>(EngineClock::now() - wall_before_).count();
    BenchResult& r = result_;
    std::vector<double> rates;
    for (const double tokens : slices_) rates.push_back(tokens * kSlices / load_.window_s);
    r.output_tok_s = mean(rates);
    r.rounds = 1;
    r.seconds = load_.window_s;
    // Each request brings its prompt with it.
    r.total_tok_s = r.output_tok_s.value * static_cast<double>(load_.isl + load_.osl) / static_cast<double>(load_.osl);
    if (!tpot_.empty()) r.tpot_ms_p50 = quantile(tpot_, 0.5);
    if (!itl_.empty()) {
      r.itl_ms_p50 = quantile(itl_, 0.5);
      r.itl_ms_p99 = quantile(itl_, 0.99);
    }
    r.batch_achieved = target_.achieved_batch();
    const double device = target_.device_seconds() - device_before_;
    if (device > 0 && wall > 0) r.device_busy_share = device / wall;
    r.kernels = target_.kernels();
    r.compute_path = target_.compute_path();
    return r;
  }

  LoadTarget& target_;
  const Load& load_;
  const std::function<void(int64_t)>& on_token_;
  const std::function<void()>& on_start_;
  std::map<int64_t, Running> requests_;
  std::set<int64_t> starting_;  // of the first ones, those without a token yet
  int64_t next_index_ = 0;
  std::optional<EngineClock::time_point> zero_;
  std::optional<double> begin_;
  double now_ = 0, device_before_ = 0;
  EngineClock::time_point wall_before_;
  std::vector<double> slices_ = std::vector<double>(kSlices);
  std::vector<double> tpot_, itl_;
  BenchResult result_;
};

}  // namespace

int64_t start_depth(const Load& load, int64_t index) {
  return static_cast<int64_t>(
      Rng(load.seed, kDepthStream).below(static_cast<uint64_t>(index), static_cast<uint64_t>(load.osl)));
}

BenchResult measure_window(LoadTarget& target, const Load& load, const std::function<void(int64_t)>& on_token,
                           const std::function<void()>& on_start) {
  if (load.batch < 1) throw Error("a batch of no requests cannot be measured");
  if (!(load.window_s > 0)) throw Error("the window must be longer than nothing");
  return SteadyRun(target, load, on_token, on_start).run();
}

}  // namespace qg
