#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <fstream>

#include "core/error.h"
#include "core/rng.h"
#include "eval/bootstrap.h"
#include "eval/choices.h"

namespace qg {
namespace {

double mean_of(std::span<const double> m) {
  return m[0];
}

TEST(BlockBootstrap, CoversTheTruthAboutNineteenTimesInTwenty) {
  int covered = 0;
  constexpr int kTrials = 200;
  for (int t = 0; t < kTrials; ++t) {
    // An autoregressive series with mean 1: blocks matter, single-token resampling would cover far less.
    Rng rng(77, static_cast<uint64_t>(t));
    std::vector<double> x;
    double state = 0;
    for (uint64_t i = 0; i < 4000; ++i) {
      state = 0.8 * state + rng.normal(i);
      x.push_back(1 + state);
    }
    BootstrapOptions options;
    options.resamples = 300;
    const std::vector<std::vector<double>> columns{x};
    const Interval interval = block_bootstrap(columns, mean_of, options);
    covered += interval.lo <= 1 && 1 <= interval.hi;
  }
  EXPECT_GE(covered, 174);  // 0.95 - 4 standard errors
  EXPECT_LE(covered, 199);
}

TEST(BlockBootstrap, IsPairedAndDeterministic) {
  std::vector<double> a, b;
  for (uint64_t i = 0; i < 2000; ++i) {
    a.push_back(Rng(5).normal(i));
    b.push_back(a.back() + 0.01);
  }
  const std::vector<std::vector<double>> columns{a, b};
  const auto gap = [](std::span<const double> m) { return m[1] - m[0]; };
  const Interval one = block_bootstrap(columns, gap), two = block_bootstrap(columns, gap);
  EXPECT_NEAR(one.lo, 0.01, 1e-9);
  EXPECT_NEAR(one.hi, 0.01, 1e-9);
  EXPECT_EQ(one.lo, two.lo);
}

// As long as a block or shorter: the spread is still seen.
TEST(BlockBootstrap, ShortTextsHaveAWidth) {
  for (const uint64_t count : {100, 127, 200}) {
    std::vector<double> x;
    for (uint64_t i = 0; i < count; ++i) x.push_back(Rng(11).normal(i));
    const std::vector<std::vector<double>> columns{x};
    const Interval interval = block_bootstrap(columns, mean_of);
    const double expected = 2 * 1.96 / std::sqrt(static_cast<double>(count));
    EXPECT_GT(interval.hi - interval.lo, 0.5 * expected) << count;
    EXPECT_LT(interval.hi - interval.lo, 1.5 * expected) << count;
  }
}

TEST(Mcnemar, EqualsTheBinomialTail) {
  EXPECT_DOUBLE_EQ(mcnemar_exact(0, 0), 1);
  EXPECT_NEAR(mcnemar_exact(0, 5), 2 * std::pow(0.5, 5), 1e-12);
  EXPECT_NEAR(mcnemar_exact(1, 9), 2 * 11 * std::pow(0.5, 10), 1e-12);
  EXPECT_DOUBLE_EQ(mcnemar_exact(4, 4), 1);
}

TEST(Choices, ComparesPaired) {
  const ChoiceResult r = compare_choices({1, 1, 0, 0, 1, 1}, {1, 0, 0, 1, 0, 1});
  EXPECT_EQ(r.items, 6);
  EXPECT_NEAR(r.flip_rate, 0.5, 1e-12);
  EXPECT_NEAR(r.base_accuracy.value, 4.0 / 6, 1e-12);
  EXPECT_NEAR(r.accuracy.value, 3.0 / 6, 1e-12);
  EXPECT_NEAR(r.mcnemar_p, 1, 1e-12);
}

TEST(Choices, ErrorsNameTheLine) {
  const std::string path = testing::TempDir() + "choices.jsonl";
  std::ofstream(path) << R"({"prompt":"a","choices":[" x"," y"],"answer":1})"
                      << "\n"
                      << R"({"prompt":"a","choices":[" x"," y"],"answer":2})"
                      << "\n";
  try {
    read_choices(path);
    FAIL() << "an answer outside the choices was accepted";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("line 2"), std::string::npos) << e.what();
  }
  std::remove(path.c_str());
}

}  // namespace
}  // namespace qg
