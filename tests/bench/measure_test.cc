#include "bench/measure.h"

#include <gtest/gtest.h>

#include <cmath>
#include <set>
#include <thread>

#include "core/error.h"
#include "core/rng.h"

namespace qg {
namespace {

TEST(Statistics, StudentTAndQuantilesEqualTheTables) {
  EXPECT_NEAR(student_t_975(1), 12.706, 1e-3);
  EXPECT_NEAR(student_t_975(4), 2.776, 1e-3);
  EXPECT_NEAR(student_t_975(40), 2.0211, 2e-4);
  EXPECT_NEAR(student_t_975(120), 1.9799, 2e-4);
  EXPECT_DOUBLE_EQ(quantile({4, 1, 3, 2}, 0.5), 2.5);
  EXPECT_DOUBLE_EQ(quantile({4, 1, 3, 2}, 1), 4);
  EXPECT_DOUBLE_EQ(quantile({7}, 0.99), 7);
  EXPECT_THROW(quantile({}, 0.5), Error);
}

TEST(Statistics, MeanHasStudentsInterval) {
  const std::vector<double> values{1, 2, 3, 4};
  const Estimate e = mean(values);
  EXPECT_DOUBLE_EQ(e.value, 2.5);
  EXPECT_NEAR(e.ci_hi - e.value, 3.182 * std::sqrt(5.0 / 3) / 2, 1e-9);  // t of 3 degrees, s / sqrt(n)
  EXPECT_NEAR(e.value - e.ci_lo, e.ci_hi - e.value, 1e-12);
}

TEST(Statistics, GeometricMeanIsOnTheLogarithms) {
  const std::vector<double> rounds{90, 100, 110, 100, 121};
  const Estimate e = geometric_mean(rounds);
  EXPECT_NEAR(e.value, std::pow(90.0 * 100 * 110 * 100 * 121, 0.2), 1e-9);
  EXPECT_NEAR(e.ci_lo * e.ci_hi, e.value * e.value, 1e-6);  // symmetric on the logarithm
  EXPECT_LT(e.ci_lo, 100);
  EXPECT_THROW(geometric_mean(std::vector<double>{1, 0}), Error);
}

TEST(Statistics, GeometricMeanCoversTheTruth) {
  int covered = 0;
  for (uint64_t t = 0; t < 1000; ++t) {
    std::vector<double> rounds;
    for (uint64_t i = 0; i < 5; ++i) rounds.push_back(100 * std::exp(0.05 * Rng(3, t).normal(i)));
    const Estimate e = geometric_mean(rounds);
    covered += e.ci_lo <= 100 && 100 <= e.ci_hi;
  }
  EXPECT_NEAR(covered / 1000.0, 0.95, 0.025);
}

RequestTrace trace(double first, double last, int64_t tokens) {
  RequestTrace r;
  r.first = first;
  r.last = last;
  r.tokens_out = tokens;
  return r;
}

TEST(Speed, IsAsDefined) {
  RoundTrace round;
  round.requests = {trace(1.0, 4.5, 11), trace(1.5, 5.5, 21)};
  EXPECT_DOUBLE_EQ(decode_speed(round), (10 + 20) / (5.5 - 1.5));
  for (int i = 1; i <= 32; ++i) round.token_times.push_back(5.5 * i / 32);
  EXPECT_DOUBLE_EQ(throughput_speed(round), 32 / 5.5);
  round.requests.push_back(trace(0, 0, 0));
  round.requests.back().error = "refused";
  EXPECT_DOUBLE_EQ(decode_speed(round), 30 / 4.0);  // failed requests do not count
}

TEST(Speed, ThroughputIntervalHoldsTheSteadyRate) {
  RoundTrace round;
  round.requests = {trace(0.01, 10, 1000)};
  for (int i = 1; i <= 1000; ++i) round.token_times.push_back(i / 100.0);
  const Estimate e = throughput_estimate(round);
  EXPECT_DOUBLE_EQ(e.value, 100);
  EXPECT_NEAR(e.ci_hi - e.ci_lo, 0, 2.0);
}

// Ramp and tail are left out of the spread: here nothing comes in the first and last second of ten.
TEST(Speed, ThroughputIntervalIsOfTheMiddle) {
  RoundTrace round;
  round.requests = {trace(1, 10, 800)};
  for (int i = 1; i <= 800; ++i) round.token_times.push_back(1 + i / 100.0);
  const Estimate e = throughput_estimate(round);
  EXPECT_DOUBLE_EQ(e.value, 80);
  EXPECT_NEAR(e.ci_hi - e.ci_lo, 0, 2.0);
}

// Every engine is offered as many requests as the others.
TEST(Loads, AThroughputWorkloadOffersTheGridsOrThePublishedRequests) {
  const auto load = [](int64_t isl, int64_t osl, int64_t requests) {
    return load_of({"w", WorkloadKind::throughput, isl, osl, 1, requests, 1, Profile::quick});
  };
  EXPECT_EQ(load(1000, 1000, 0).batch, 3000);
  EXPECT_EQ(load(20000, 2000, 77).batch, 77);
  EXPECT_EQ(load(7, 9, 0).batch, 1000);
}

TEST(Load, NamesAreParsed) {
  EXPECT_EQ(parse_load("decode/b64")->batch, 64);
  EXPECT_EQ(parse_load("decode/b64")->osl, 256);
  EXPECT_EQ(parse_load("20000/2000")->isl, 20000);
  EXPECT_EQ(parse_load("1000/1000")->speed, SpeedKind::throughput);
  EXPECT_EQ(rows_of_step(*parse_load("1000/1000"), true), 4096);
  EXPECT_EQ(rows_of_step(*parse_load("1000/1000"), false), 2048);
  EXPECT_EQ(rows_of_step(*parse_load("decode/b64"), true), 2048);
  for (const char* bad : {"decode/b", "decode/b0", "decode/b8x", "1000", "/5", "5/", "-1/5", "a/b", ""})
    EXPECT_FALSE(parse_load(bad)) << bad;
}

TEST(Load, PromptsAreReproducibleAndShareNoPrefix) {
  Load w;
  w.isl = 16;
  EXPECT_EQ(load_prompt(w, 3, 1000), load_prompt(w, 3, 1000));
  std::set<int32_t> first;
  for (int64_t i = 0; i < 50; ++i) {
    const auto p = load_prompt(w, i, 128256);
    first.insert(p[0]);
    for (int32_t t : p) EXPECT_TRUE(t >= 32 && t < 128256 - 512);
  }
  EXPECT_GT(first.size(), 45u);
}

// Gives every request in flight one token a poll, 1 ms apart by its own clock.
class FakeTarget : public LoadTarget {
 public:
  int64_t most_in_flight = 0, submitted = 0, refuse_every = 0;

  int64_t submit(std::vector<int32_t>, int64_t output_tokens) override {
    left_.push_back({submitted, output_tokens});
    most_in_flight = std::max(most_in_flight, static_cast<int64_t>(left_.size()));
    return submitted++;
  }
  bool poll(EngineClock::time_point, const std::function<void(const LoadEvent&)>& on_event) override {
    if (left_.empty()) return false;
    std::vector<std::pair<int64_t, int64_t>> still;
    for (auto [id, tokens] : left_) {
      LoadEvent e;
      e.request = id;
      e.time = EngineClock::now();
      if (refuse_every && id % refuse_every == 0) {
        e.error = "refused for the test";
        e.finished = true;
      } else {
        e.tokens = 1;
        e.finished = tokens == 1;
      }
      on_event(e);
      if (!e.finished) still.push_back({id, tokens - 1});
    }
    left_ = still;
    return true;
  }
  int64_t vocab() const override { return 1000; }
  double achieved_batch() const override { return 1; }
  void reset_statistics() override {}
  std::vector<std::string> kernels() const override { return {}; }
  std::string compute_path() const override { return "w16a16"; }

 private:
  std::vector<std::pair<int64_t, int64_t>> left_;
};

TEST(Measure, RunsWarmUpAndRounds) {
  FakeTarget target;
  Load w = *parse_load("decode/b4");
  w.osl = 8;
  int64_t tokens = 0;
  const BenchResult r = measure(target, w, [&](int64_t n) { tokens += n; });
  EXPECT_EQ(target.submitted, 4 * 6);
  EXPECT_EQ(tokens, total_output_tokens(w));
  EXPECT_EQ(r.rounds, 5);
  EXPECT_EQ(r.requests, 20);
  EXPECT_EQ(r.failed, 0);
  EXPECT_GT(r.output_tok_s.ci_lo, 0);
}

// Every request gets its tokens at times of its own: request i the first after 10 (1 + i mod 5) ms, then one every 5
// ms.
class TimedTarget : public FakeTarget {
 public:
  int64_t submit(std::vector<int32_t>, int64_t output_tokens) override {
    waiting_.push_back({submitted, output_tokens, EngineClock::now()});
    return submitted++;
  }
  bool poll(EngineClock::time_point, const std::function<void(const LoadEvent&)>& on_event) override {
    if (waiting_.empty()) return false;
    for (const auto& [id, tokens, offered] : waiting_)
      for (int64_t i = 0; i < tokens; ++i) {
        LoadEvent e;
        e.request = id;
        e.tokens = 1;
        e.time = offered + std::chrono::milliseconds(10 * (1 + id % 5) + 5 * i);
        e.finished = i + 1 == tokens;
        on_event(e);
      }
    waiting_.clear();
    return true;
  }

 private:
  struct Waiting {
    int64_t id, tokens;
    EngineClock::time_point offered;
  };
  std::vector<Waiting> waiting_;
};

TEST(Measure, TimesAreAsDefined) {
  TimedTarget target;
  Load w = *parse_load("decode/b5");
  w.osl = 12;
  const BenchResult r = measure(target, w, [](int64_t) {});
  // A prompt is drawn between the moment of the offer and the target's clock: a fraction of a millisecond, more when
  // the machine is busy.
  EXPECT_GE(r.ttft_ms_p50, 30);
  EXPECT_LT(r.ttft_ms_p50, 39);
  EXPECT_GE(r.ttft_ms_p99, 49);
  EXPECT_NEAR(r.tpot_ms_p50, 5, 1e-6);
  EXPECT_NEAR(r.itl_ms_p50, 5, 1e-6);
  EXPECT_NEAR(r.itl_ms_p99, 5, 1e-6);
}

// Two of four at a time: the tokens of the first two would count over the time of the last two.
TEST(Measure, ABatchThatNeverRanAtOnceHasNoDecodeSpeed) {
  const Load w = *parse_load("decode/b4");
  RoundTrace round;
  round.requests = {trace(1, 5, 5), trace(1, 5, 5), trace(6, 10, 5), trace(6, 10, 5)};
  EXPECT_DOUBLE_EQ(decode_speed(round), 16 / 4.0) << "twice what two at a time make";
  EXPECT_FALSE(ran_together(round, w));
  round.requests[2] = round.requests[3] = trace(5, 9, 5);  // the last begin in the step in which the first end
  EXPECT_TRUE(ran_together(round, w));
  round.requests[3] = trace(6, 10, 5);
  round.requests[3].error = "refused";
  EXPECT_TRUE(ran_together(round, w)) << "failures are counted elsewhere";
  round.requests[3].error.clear();
  EXPECT_FALSE(ran_together(round, w));
  EXPECT_TRUE(ran_together(round, *parse_load("1000/1000"))) << "there waiting counts";
}

// Serves one request after the other, at times of its own: four tokens in 4 ms.
class OneByOneTarget : public FakeTarget {
 public:
  int64_t submit(std::vector<int32_t>, int64_t output_tokens) override {
    waiting_.push_back({submitted, output_tokens});
    return submitted++;
  }
  bool poll(EngineClock::time_point, const std::function<void(const LoadEvent&)>& on_event) override {
    if (waiting_.empty()) return false;
    for (const auto& [id, tokens] : waiting_)
      for (int64_t i = 0; i < tokens; ++i) {
        LoadEvent e;
        e.request = id;
        e.tokens = 1;
        e.time = now_ += std::chrono::milliseconds(1);
        e.finished = i + 1 == tokens;
        on_event(e);
      }
    waiting_.clear();
    return true;
  }

 private:
  std::vector<std::pair<int64_t, int64_t>> waiting_;
  EngineClock::time_point now_ = EngineClock::now() + std::chrono::seconds(1);
};

TEST(Measure, OneByOneIsNoDecodingOfABatch) {
  Load w = *parse_load("decode/b4");
  w.osl = 4;
  OneByOneTarget four;
  EXPECT_THROW(measure(four, w, [](int64_t) {}), Error);
  w.batch = 1;
  OneByOneTarget one;
  EXPECT_NEAR(measure(one, w, [](int64_t) {}).output_tok_s.value, 1000, 1);
}

// A step of 20 ms, during which requests arrive at the door.
class SlowTarget : public FakeTarget {
 public:
  bool poll(EngineClock::time_point deadline, const std::function<void(const LoadEvent&)>& on_event) override {
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
    return FakeTarget::poll(deadline, on_event);
  }
};

// Whoever arrives during a step waits for its end and for a step of its own: 30 ms in the middle, not 20.
TEST(Measure, PoissonArrivalsCountFromWhenTheyCame) {
  SlowTarget target;
  Load w = *parse_load("decode/b1");
  w.arrival = Arrival::rate;
  w.rate_per_s = 1000;
  w.requests = 200;
  w.osl = 1;
  w.speed = SpeedKind::throughput;
  const BenchResult r = measure(target, w, [](int64_t) {});
  EXPECT_EQ(r.requests, 200);
  EXPECT_GT(r.ttft_ms_p50, 24);
}

TEST(Measure, KeepsTheConcurrencyAsked) {
  FakeTarget target;
  Load w = *parse_load("decode/b1");
  w.arrival = Arrival::concurrency;
  w.batch = 3;
  w.requests = 20;
  w.osl = 5;
  const BenchResult r = measure(target, w, [](int64_t) {});
  EXPECT_EQ(target.most_in_flight, 3);
  EXPECT_EQ(r.requests, 20);

  // Kernels are loaded before the time runs, as for every other load.
  w.speed = SpeedKind::throughput;
  FakeTarget cold;
  int64_t tokens = 0, before_start = 0;
  EXPECT_EQ(measure(
                cold, w, [&](int64_t n) { tokens += n; }, [&] { before_start = tokens; })
                .requests,
            20);
  EXPECT_EQ(before_start, 16 * 5);
  EXPECT_EQ(tokens, total_output_tokens(w));
}

TEST(Measure, CountsFailuresAndRefusesWhenAllFail) {
  FakeTarget some;
  some.refuse_every = 2;
  Load w = *parse_load("decode/b4");
  w.osl = 4;
  EXPECT_EQ(measure(some, w, [](int64_t) {}).failed, 10);
  FakeTarget all;
  all.refuse_every = 1;
  try {
    measure(all, w, [](int64_t) {});
    FAIL() << "a run without a single answer was summed up";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("refused for the test"), std::string::npos);
  }
}

}  // namespace
}  // namespace qg
