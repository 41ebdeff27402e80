// Sums over keys, as if the text had stood elsewhere: against sums over keys that really were turned.
#include "quantize/position_mean.h"

#include <gtest/gtest.h>

#include <cmath>

namespace qg {
namespace {

const std::vector<double> kFrequencies{1.0, 0.1, 0.1, 0.003, 0.0};
constexpr int64_t kHalf = 5;

std::vector<double> vector_of(unsigned seed) {
  std::vector<double> x;
  for (int64_t i = 0; i < 2 * kHalf; ++i) x.push_back(std::sin(1.7 * static_cast<double>(i) + seed) + 0.3);
  return x;
}

std::vector<double> turned(const std::vector<double>& x, int64_t move) {
  std::vector<double> out(x.size());
  for (size_t i = 0; i < kFrequencies.size(); ++i) {
    const double angle = kFrequencies[i] * static_cast<double>(move), c = std::cos(angle), s = std::sin(angle);
    out[i] = c * x[i] - s * x[i + kHalf];
    out[i + kHalf] = s * x[i] + c * x[i + kHalf];
  }
  return out;
}

void add_square(const std::vector<double>& x, double weight, SmallMatrix& to) {
  for (int64_t i = 0; i < to.n; ++i)
    for (int64_t j = 0; j < to.n; ++j) to(i, j) += weight * x[static_cast<size_t>(i)] * x[static_cast<size_t>(j)];
}

// Weight of a move in the mean over spans 1, 2, 4, ..., context.
double weight_of(int64_t move, int64_t context) {
  double weight = 0, spans = 0;
  for (int64_t span = 1; span <= context; span *= 2) {
    if (move < span) weight += 1 / static_cast<double>(span);
    ++spans;
  }
  return weight / spans;
}

TEST(PositionMean, IsTheMeanOverTurnedVectors) {
  const std::vector<std::vector<double>> keys{vector_of(1), vector_of(2), vector_of(3)};
  for (const int64_t context : {2, 7, 64, 1000}) {
    SmallMatrix moment(2 * kHalf), expected_moment(2 * kHalf);
    std::vector<double> sum(2 * kHalf), expected_sum(2 * kHalf);
    for (const auto& key : keys) {
      add_square(key, 1, moment);
      for (size_t i = 0; i < key.size(); ++i) sum[i] += key[i];
      for (int64_t move = 0; move < context; ++move) {
        const std::vector<double> x = turned(key, move);
        const double weight = weight_of(move, context);
        add_square(x, weight, expected_moment);
        for (size_t i = 0; i < x.size(); ++i) expected_sum[i] += weight * x[i];
      }
    }
    const PositionMean mean(kFrequencies, context);
    const SmallMatrix got = mean.of_moment(moment);
    for (size_t i = 0; i < got.values.size(); ++i)
      EXPECT_NEAR(got.values[i], expected_moment.values[i], 1e-10) << context << " " << i;
    const std::vector<double> got_sum = mean.of_sum(sum);
    for (size_t i = 0; i < got_sum.size(); ++i) EXPECT_NEAR(got_sum[i], expected_sum[i], 1e-10) << context << " " << i;
  }
}

TEST(PositionMean, MovesNothingWithoutAContext) {
  const std::vector<double> x = vector_of(4);
  SmallMatrix moment(2 * kHalf);
  add_square(x, 1, moment);
  for (const int64_t context : {0, 1}) {
    const PositionMean mean(kFrequencies, context);
    EXPECT_EQ(mean.of_sum(x), x);
    const SmallMatrix got = mean.of_moment(moment);
    for (size_t i = 0; i < got.values.size(); ++i) EXPECT_NEAR(got.values[i], moment.values[i], 1e-14) << i;
  }
}

// Slow turns must not drown in rounding, nor the closed form where a turn is nearly none.
TEST(PositionMean, KeepsSlowTurnsAndLargeContexts) {
  const PositionMean mean({1e-9, 0.7}, int64_t{1} << 17);
  const std::vector<double> sum = mean.of_sum({1, 1, 0, 0});
  EXPECT_NEAR(sum[0], 1, 1e-6);
  EXPECT_GT(sum[2], 0);
  EXPECT_LT(sum[2], 1e-4);
  EXPECT_LT(std::hypot(sum[1], sum[3]), 0.3);  // of a fast turn only the short spans are left
}

}  // namespace
}  // namespace qg
