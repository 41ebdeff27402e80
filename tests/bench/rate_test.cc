// A load at a rate, on targets whose times are known: what is counted, from when, and what is good.
#include "bench/rate.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <thread>

#include "bench/arrivals.h"
#include "core/error.h"
#include "grid/grid.h"

namespace qg {
namespace {

Load rate_load(double rate, int64_t requests) {
  Load load;
  load.name = "rate/test";
  load.isl = 4;
  load.osl = 3;
  load.arrival = Arrival::rate;
  load.speed = SpeedKind::throughput;
  load.rate_per_s = rate;
  load.requests = requests;
  return load;
}

RequestTrace request(double offered, double first, std::vector<double> gaps) {
  RequestTrace r;
  r.offered = offered;
  r.first = r.last = first;
  r.gaps = std::move(gaps);
  for (double gap : r.gaps) r.last += gap;
  r.tokens_out = static_cast<int64_t>(r.gaps.size()) + 1;
  return r;
}

TEST(Rate, GoodIsWithinEveryLimit) {
  RoundTrace round;
  round.requests = {request(1, 1.1, {0.01, 0.02}),  // TTFT 100 ms, TPOT 15 ms
                    request(2, 2.3, {0.01, 0.01}),  // 300, 10
                    request(3, 3.1, {0.04, 0.02}),  // 100, 30
                    request(4, 4.05, {}),           // 50, none
                    request(5, 0, {})};
  round.requests.back().error = "refused";
  Load load = rate_load(1, 5);
  const auto good = [&](double ttft, double tpot) {
    load.max_ttft_ms = ttft;
    load.max_tpot_ms = tpot;
    return goodput_of(round, load, 10).good;
  };
  EXPECT_EQ(good(0, 0), 4);  // a failed request is never good
  EXPECT_EQ(good(200, 0), 3);
  EXPECT_EQ(good(0, 20), 3);
  EXPECT_EQ(good(200, 20), 2);
  EXPECT_EQ(good(60, 20), 1);  // one token has no TPOT
  EXPECT_EQ(good(100.0001, 15.0001), 2);
  EXPECT_EQ(good(99.9, 14.9), 1);
  load.max_ttft_ms = 200;
  load.max_tpot_ms = 20;
  const Goodput g = goodput_of(round, load, 10);
  EXPECT_DOUBLE_EQ(g.share.value, 0.4);
  EXPECT_DOUBLE_EQ(g.requests_s, 0.2);
  EXPECT_NEAR(g.share.ci_lo, 0.1176, 1e-3);  // Wilson's interval of 2 of 5
  EXPECT_NEAR(g.share.ci_hi, 0.7693, 1e-3);
}

TEST(Rate, TheWarmUpIsCutOffWithItsTokens) {
  RoundTrace all;
  all.requests = {request(0, 0.5, {0.1, 0.1}), request(1, 2.5, {2}), request(2, 2.25, {0.5}), request(3, 3.5, {})};
  all.requests[2].tokens_out = 4;  // two more came with others
  const RoundTrace part = counted_part(all, 2);
  ASSERT_EQ(part.requests.size(), 2u);
  EXPECT_DOUBLE_EQ(part.requests[0].offered, 0);
  EXPECT_DOUBLE_EQ(part.requests[0].first, 0.25);
  EXPECT_DOUBLE_EQ(part.requests[1].offered, 1);
  EXPECT_EQ(part.token_times, (std::vector<double>{0.25, 0.75, 0.75, 0.75, 1.5}));
  EXPECT_TRUE(counted_part(all, 4).requests.empty());
}

// Serves one request after the other, 5 ms each, by a clock that the test sets: requests wait in line. Its tokens'
// times are exact, since they are worked out from the moments of arrival.
class QueueTarget : public LoadTarget {
 public:
  QueueTarget(const Load& load, double service_s, double token_s)
      : times_(arrival_times({load.rate_per_s, load.burstiness, load.arrival_seed}, open_at_most(load))),
        service_s_(service_s),
        token_s_(token_s) {}

  int64_t submitted = 0, resets = 0, submitted_at_reset = -1, fail_from = 1 << 30;

  int64_t submit(std::vector<int32_t>, int64_t output_tokens) override {
    const auto now = EngineClock::now();
    if (submitted == 0) start_ = now;  // the first one arrives at 0
    const double arrived = times_[static_cast<size_t>(submitted)];
    sent_late_s = std::max(sent_late_s, std::chrono::duration<double>(now - start_).count() - arrived);
    const double first = std::max(free_, arrived) + service_s_;
    free_ = first;
    for (int64_t i = 0; i < output_tokens; ++i) {
      LoadEvent e;
      e.request = submitted;
      e.tokens = 1;
      e.time = start_ + std::chrono::duration_cast<EngineClock::duration>(
                            std::chrono::duration<double>(first + token_s_ * static_cast<double>(i)));
      e.finished = i + 1 == output_tokens;
      if (submitted >= fail_from) {
        e.tokens = 0;
        e.finished = true;
        e.error = "refused for the test";
        i = output_tokens;
      }
      events_.push_back(e);
    }
    return submitted++;
  }
  bool poll(EngineClock::time_point deadline, const std::function<void(const LoadEvent&)>& on_event) override {
    const bool any = !events_.empty();
    for (const LoadEvent& e : std::exchange(events_, {})) on_event(e);
    if (!any) std::this_thread::sleep_until(deadline);
    return any;
  }
  int64_t vocab() const override { return 1000; }
  double achieved_batch() const override { return 1; }
  void reset_statistics() override {
    ++resets;
    submitted_at_reset = submitted;
  }
  std::vector<std::string> kernels() const override { return {}; }
  std::string compute_path() const override { return "w16a16"; }

  double sent_late_s = 0;

 private:
  std::vector<double> times_;
  double service_s_, token_s_, free_ = 0;
  EngineClock::time_point start_;
  std::vector<LoadEvent> events_;
};

// What a queue with one server does to these arrivals, worked out here a second time.
TEST(Rate, LatencyCountsFromTheArrival) {
  Load load = rate_load(150, 60);
  load.max_ttft_ms = 12;
  const double service = 0.005, token = 0.001;
  QueueTarget target(load, service, token);
  int64_t started = 0;
  const BenchResult r = measure(
      target, load, [](int64_t) {}, [&] { ++started; });
  const int64_t warm_up = rate_warm_up(60);
  ASSERT_EQ(warm_up, 16);
  EXPECT_EQ(target.submitted, 76);
  EXPECT_EQ(r.requests, 60);
  EXPECT_EQ(started, 1);
  EXPECT_EQ(target.resets, 1);
  EXPECT_EQ(target.submitted_at_reset, 16);

  const std::vector<double> times = arrival_times({150, 1, load.arrival_seed}, 76);
  std::vector<double> ttft;
  double free = 0;
  int64_t good = 0;
  for (size_t i = 0; i < times.size(); ++i) {
    free = std::max(free, times[i]) + service;
    if (i < 16) continue;
    ttft.push_back((free - times[i]) * 1e3);
    good += ttft.back() <= 12;
  }
  const double slack = target.sent_late_s * 1e3 + 1;  // the target's zero is when it got the first one
  EXPECT_GT(quantile(ttft, 0.9), 6) << "nobody waited: the test shows nothing";
  EXPECT_NEAR(r.ttft_ms.p50, quantile(ttft, 0.5), slack);
  EXPECT_NEAR(r.ttft_ms.p90, quantile(ttft, 0.9), slack);
  EXPECT_NEAR(r.tpot_ms.p50, 1, 1e-3);
  EXPECT_NEAR(r.e2e_ms.p50, quantile(ttft, 0.5) + 2, slack);
  EXPECT_EQ(r.ttft_ms.n, 60);
  EXPECT_EQ(r.itl_ms.n, 120);
  EXPECT_EQ(r.output_tokens, 180);
  ASSERT_TRUE(r.goodput);
  EXPECT_NEAR(static_cast<double>(r.goodput->good), static_cast<double>(good), 3);
  EXPECT_NEAR(r.seconds, free + 2 * token - times[16], slack / 1e3 + 1e-3);
  EXPECT_NEAR(r.output_tok_s.value, 180 / r.seconds, 1e-6);
  EXPECT_NEAR(r.goodput->requests_s, static_cast<double>(r.goodput->good) / r.seconds, 1e-9);
}

// A server that takes 20 ms to give an answer at all, to whoever came in the meantime: a client that waited for it
// would send a fifth of the requests, and each would seem to wait 20 ms at most.
class StuckTarget : public QueueTarget {
 public:
  using QueueTarget::QueueTarget;
  bool poll(EngineClock::time_point deadline, const std::function<void(const LoadEvent&)>& on_event) override {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return QueueTarget::poll(deadline, on_event);
  }
};

TEST(Rate, WhoCannotBeSentOnTimeStillCountsFromItsArrival) {
  const Load load = rate_load(2000, 100);
  StuckTarget target(load, 1e-5, 0);
  const auto before = EngineClock::now();
  const BenchResult r = measure(target, load, [](int64_t) {});
  EXPECT_GT(target.sent_late_s, 0.005) << "nothing was late: the test shows nothing";
  EXPECT_NEAR(r.ttft_ms.p50, 0, 2) << "counted from when they were sent, which is later, it would be less than nothing";
  EXPECT_LT(std::chrono::duration<double>(EngineClock::now() - before).count(), 5);
}

TEST(Rate, FailedRequestsAreCountedAndNeverGood) {
  Load load = rate_load(5000, 40);
  load.max_ttft_ms = 1e6;
  QueueTarget target(load, 1e-4, 1e-4);
  target.fail_from = 16 + 30;
  const BenchResult r = measure(target, load, [](int64_t) {});
  EXPECT_EQ(r.requests, 40);
  EXPECT_EQ(r.failed, 10);
  EXPECT_EQ(r.first_error, "refused for the test");
  EXPECT_EQ(r.goodput->good, 30);
  EXPECT_EQ(r.ttft_ms.n, 30);

  QueueTarget none(load, 1e-4, 1e-4);
  none.fail_from = 0;
  try {
    measure(none, load, [](int64_t) {});
    FAIL() << "a run without a single answer was summed up";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("refused for the test"), std::string::npos);
  }
}

TEST(Rate, FiguresHaveNamesAndA99thPercentileOnlyWithEnoughSamples) {
  const auto names = [](int64_t requests, bool limits) {
    Load load = rate_load(20000, requests);
    if (limits) load.max_tpot_ms = 1;
    QueueTarget target(load, 1e-6, 1e-6);
    std::map<std::string, LoadFigure> found;
    for (const LoadFigure& f : rate_figures(measure(target, load, [](int64_t) {}))) found[std::string(f.metric)] = f;
    return found;
  };
  const auto few = names(20, false);
  EXPECT_TRUE(few.contains("ttft_ms_p50") && few.contains("tpot_ms_p90") && few.contains("requests_s"));
  EXPECT_FALSE(few.contains("ttft_ms_p99") || few.contains("goodput_requests_s"));
  EXPECT_EQ(few.at("itl_ms_p50").n, 40);
  const auto many = names(300, true);
  for (const char* name : {"ttft_ms_p99", "tpot_ms_p99", "itl_ms_p99", "e2e_ms_p99", "goodput_requests_s"})
    EXPECT_TRUE(many.contains(name)) << name;
  const LoadFigure share = many.at("goodput_share");
  EXPECT_DOUBLE_EQ(share.value, 1);
  EXPECT_NEAR(share.ci_lo, 1 - 3.84 / 303.84, 1e-3);
  EXPECT_EQ(share.n, 300);
  Load load = *parse_load("decode/b4");
  load.speed = SpeedKind::throughput;  // this target serves one after the other
  load.osl = 4;
  QueueTarget other(rate_load(1, 100), 1e-6, 1e-6);
  EXPECT_TRUE(rate_figures(measure(other, load, [](int64_t) {})).empty()) << "of other loads there are none";
}

TEST(Rate, A99thPercentileOfFewRequestsIsNotShown) {
  const auto shown = [](const Load& load) {
    QueueTarget target(load.arrival == Arrival::rate ? load : rate_load(1, 100), 1e-6, 1e-6);
    const BenchResult r = measure(target, load, [](int64_t) {});
    const std::optional<double> value = shown_p99(r, load, "ttft_ms_p99", r.ttft_ms_p99);
    EXPECT_TRUE(!value || *value == r.ttft_ms_p99);
    EXPECT_EQ(p99_text(r, load, "ttft_ms_p99", r.ttft_ms_p99, 1).ends_with(" ms"), value.has_value());
    return value.has_value();
  };
  EXPECT_FALSE(shown(rate_load(20000, 20)));
  EXPECT_TRUE(shown(rate_load(20000, 300)));
  Load load = *parse_load("decode/b4");
  load.speed = SpeedKind::throughput;  // this target serves one after the other
  load.osl = 4;
  EXPECT_TRUE(shown(load));
}

TEST(Rate, ArrivalsAreDescribed) {
  Load load = rate_load(8, 480);
  EXPECT_EQ(describe_arrivals(load), "Poisson arrivals at 8 requests/s, seed 42; 48 more before them are not counted");
  load.burstiness = 0.5;
  load.arrival_seed = 3;
  load.max_ttft_ms = 500;
  load.max_tpot_ms = 30;
  EXPECT_EQ(
      describe_arrivals(load),
      "arrivals of burstiness 0.5 at 8 requests/s, seed 3; 48 more before them are not counted; good: TTFT at most "
      "500 ms, TPOT at most 30 ms");
  load.max_ttft_ms = 0;
  EXPECT_TRUE(describe_arrivals(load).ends_with("; good: TPOT at most 30 ms")) << describe_arrivals(load);
}

TEST(Rate, ALoadOfAGrid) {
  Workload w;
  w.name = "rate/8";
  w.kind = WorkloadKind::rate;
  w.isl_tokens = 1024;
  w.osl_tokens = 128;
  w.rate_per_s = 8;
  w.requests = 480;
  w.burstiness = 2;
  w.seed = 5;
  w.max_ttft_ms = 500;
  w.max_tpot_ms = 30;
  const Load load = load_of(w);
  EXPECT_EQ(load.arrival, Arrival::rate);
  EXPECT_EQ(load.rate_per_s, 8);
  EXPECT_EQ(load.requests, 480);
  EXPECT_EQ(load.burstiness, 2);
  EXPECT_EQ(load.arrival_seed, 5u);
  EXPECT_EQ(load.max_ttft_ms, 500);
  EXPECT_EQ(load.max_tpot_ms, 30);
  EXPECT_EQ(open_at_most(load), 528);
  EXPECT_EQ(running_at_once(load, true), 256);
  EXPECT_EQ(running_at_once(load, false), 64);
  EXPECT_EQ(rows_of_step(load, true), 2048);
  EXPECT_EQ(total_output_tokens(load), 528 * 128);
}

}  // namespace
}  // namespace qg
