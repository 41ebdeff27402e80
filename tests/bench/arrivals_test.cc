#include "bench/arrivals.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "bench/statistics.h"
#include "core/error.h"

namespace qg {
namespace {

std::vector<double> gaps_of(double rate, double burstiness, int64_t count, uint64_t seed = 7) {
  const std::vector<double> times = arrival_times({rate, burstiness, seed}, count + 1);
  std::vector<double> gaps;
  for (size_t i = 1; i < times.size(); ++i) gaps.push_back(times[i] - times[i - 1]);
  return gaps;
}

double variation(const std::vector<double>& values) {
  const double m = mean(values).value;
  double squares = 0;
  for (double v : values) squares += (v - m) * (v - m);
  return std::sqrt(squares / static_cast<double>(values.size())) / m;
}

// A Poisson process: gaps have the mean 1 / rate, the median ln 2 / rate, and as much spread as mean.
TEST(Arrivals, PoissonGapsAreExponential) {
  const std::vector<double> gaps = gaps_of(8, 1, 20000);
  EXPECT_NEAR(mean(gaps).value, 1 / 8.0, 0.003);
  EXPECT_NEAR(quantile(gaps, 0.5), std::log(2) / 8, 0.003);
  EXPECT_NEAR(quantile(gaps, 0.99), std::log(100) / 8, 0.03);
  EXPECT_NEAR(variation(gaps), 1, 0.03);
}

// The coefficient of variation of a gamma distribution is one over the root of its shape; the mean stays.
TEST(Arrivals, BurstinessIsTheShapeOfTheGaps) {
  for (double burstiness : {0.25, 0.5, 2.0, 16.0}) {
    const std::vector<double> gaps = gaps_of(5, burstiness, 40000);
    EXPECT_NEAR(mean(gaps).value * 5, 1, 0.03) << burstiness;
    EXPECT_NEAR(variation(gaps) * std::sqrt(burstiness), 1, 0.04) << burstiness;
    EXPECT_GE(*std::min_element(gaps.begin(), gaps.end()), 0) << burstiness;
  }
}

TEST(Arrivals, AreReproducibleAndLongerOnesBeginAlike) {
  for (double burstiness : {1.0, 0.5}) {
    const std::vector<double> some = arrival_times({3, burstiness, 1}, 10),
                              more = arrival_times({3, burstiness, 1}, 50);
    EXPECT_EQ(some.front(), 0);
    EXPECT_TRUE(std::equal(some.begin(), some.end(), more.begin()));
    EXPECT_TRUE(std::is_sorted(more.begin(), more.end()));
    EXPECT_NE(arrival_times({3, burstiness, 2}, 10), some);
    const std::vector<double> faster = arrival_times({6, burstiness, 1}, 10);
    for (size_t i = 0; i < some.size(); ++i) EXPECT_NEAR(faster[i] * 2, some[i], 1e-12);
  }
  EXPECT_TRUE(arrival_times({3, 1, 1}, 0).empty());
}

TEST(Arrivals, NothingIsNoRate) {
  EXPECT_THROW(arrival_times({0, 1, 1}, 3), Error);
  EXPECT_THROW(arrival_times({-1, 1, 1}, 3), Error);
  EXPECT_THROW(arrival_times({std::nan(""), 1, 1}, 3), Error);
  EXPECT_THROW(arrival_times({1, 0, 1}, 3), Error);
}

}  // namespace
}  // namespace qg
