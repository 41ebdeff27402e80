#include "bench/steady.h"

#include <gtest/gtest.h>

#include <list>
#include <set>

#include "core/error.h"

namespace qg {
namespace {

// Runs `places` requests at a time, oldest first; a step gives each a token and takes 10 ms of a clock of its own.
// slow_ramp: until the window begins steps take a second and take in one request each, which a steady state must not
// see.
class SteppingTarget : public LoadTarget {
 public:
  struct Offered {
    int64_t prompt, output;
  };
  std::vector<Offered> offered;
  int64_t places = 0, least_running = 1 << 30;
  bool slow_ramp = false, refuses = false, counting = false;

  int64_t submit(std::vector<int32_t> prompt, int64_t output_tokens) override {
    offered.push_back({static_cast<int64_t>(prompt.size()), output_tokens});
    queue_.push_back({static_cast<int64_t>(offered.size()) - 1, output_tokens});
    return queue_.back().id;
  }
  bool poll(EngineClock::time_point, const std::function<void(const LoadEvent&)>& on_event) override {
    if (queue_.empty()) return false;
    const bool counted = counting, ramp = slow_ramp && !counting;
    now_ += std::chrono::milliseconds(ramp ? 1000 : 10);
    const int64_t most = ramp ? std::min(places, ++ramp_steps_) : places;
    int64_t running = 0;
    for (auto r = queue_.begin(); r != queue_.end() && running < most; ++running) {
      LoadEvent e;
      e.request = r->id;
      e.time = now_;
      e.tokens = refuses ? 0 : 1;
      if (refuses) e.error = "refused for the test";
      e.finished = refuses || --r->left == 0;
      r = e.finished ? queue_.erase(r) : std::next(r);
      on_event(e);
    }
    if (counted) least_running = std::min(least_running, running);
    return true;
  }
  int64_t vocab() const override { return 1000; }
  double achieved_batch() const override { return static_cast<double>(places); }
  void reset_statistics() override { counting = true; }
  std::vector<std::string> kernels() const override { return {}; }
  std::string compute_path() const override { return "w16a16"; }

 private:
  struct Request {
    int64_t id, left;
  };
  std::list<Request> queue_;
  int64_t ramp_steps_ = 0;
  EngineClock::time_point now_;
};

Load steady_load() {
  Load load;
  load.name = "30/50";
  load.isl = 30;
  load.osl = 50;
  load.speed = SpeedKind::throughput;
  load.batch = 16;
  load.window_s = 20;
  return load;
}

TEST(Steady, MeasuresTheSteadyRateAlone) {
  SteppingTarget target;
  target.places = 16;
  target.slow_ramp = true;
  bool started = false;
  const BenchResult r = measure(
      target, steady_load(), [](int64_t) {}, [&] { started = true; });
  EXPECT_TRUE(started);
  EXPECT_NEAR(r.output_tok_s.value, 1600, 1);  // 16 tokens each 10 ms
  EXPECT_NEAR(r.output_tok_s.ci_hi - r.output_tok_s.ci_lo, 0, 10);
  EXPECT_NEAR(r.total_tok_s, 1600 * 80 / 50.0, 2);
  EXPECT_NEAR(r.tpot_ms_p50, 10, 1e-6);
  EXPECT_EQ(r.seconds, 20);
  EXPECT_EQ(target.least_running, 16) << "a place stood empty";
  EXPECT_EQ(r.failed, 0);
}

TEST(Steady, StartsAtRandomDepthsAndGoesOnWithWholeRequests) {
  SteppingTarget target;
  target.places = 16;
  const Load load = steady_load();
  measure(target, load, [](int64_t) {});
  std::set<int64_t> depths;
  for (size_t i = 0; i < target.offered.size(); ++i) {
    const SteppingTarget::Offered& o = target.offered[i];
    EXPECT_EQ(o.prompt + o.output, load.isl + load.osl);
    if (i < 16)
      depths.insert(o.prompt - load.isl);
    else
      EXPECT_EQ(o.prompt, load.isl);
  }
  EXPECT_GT(depths.size(), 10u);
  EXPECT_GE(*depths.begin(), 0);
  EXPECT_LT(*depths.rbegin(), load.osl);
}

TEST(Steady, RefusesWhenEveryRequestFails) {
  SteppingTarget target;
  target.places = 16;
  target.refuses = true;
  EXPECT_THROW(measure(target, steady_load(), [](int64_t) {}), Error);
}

}  // namespace
}  // namespace qg
