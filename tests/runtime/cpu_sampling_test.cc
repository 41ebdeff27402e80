#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "core/error.h"
#include "runtime/sampling.h"

namespace qg {
namespace {

// Chi-squared of counts over `draws` against probabilities; classes of probability 0 must be empty.
double chi_squared(const std::vector<int>& counts, const std::vector<double>& probabilities, int draws) {
  double sum = 0;
  for (size_t i = 0; i < counts.size(); ++i) {
    const double expected = probabilities[i] * draws;
    if (expected == 0) {
      EXPECT_EQ(counts[i], 0) << i;
      continue;
    }
    sum += (counts[i] - expected) * (counts[i] - expected) / expected;
  }
  return sum;
}

std::vector<int> draw_many(const std::vector<float>& logits, SamplingParams params, int draws) {
  std::vector<int> counts(logits.size());
  for (int i = 0; i < draws; ++i) ++counts[static_cast<size_t>(sample_token(logits, params, i))];
  return counts;
}

constexpr int kDraws = 20000;
// logits are the logarithms of 5, 4, 3, 2, 1, shuffled.
const std::vector<float> kLogits{std::log(3.0f), std::log(5.0f), std::log(1.0f), std::log(4.0f), std::log(2.0f)};

TEST(Sampling, GreedyTakesTheLowestIndexAmongEqualMaxima) {
  EXPECT_EQ(sample_token(std::vector<float>{1, 3, 3, 2}, {}, 0), 1);
  EXPECT_EQ(sample_token(std::vector<float>{-5, -7, -5}, {}, 3), 0);
  SamplingParams one;
  one.temperature = 2;
  one.top_k = 1;
  EXPECT_EQ(sample_token(std::vector<float>{1, 3, 3, 2}, one, 0), 1);
}

// 4 degrees of freedom: chi-squared is above 23.5 once in 10,000 times; the seed is fixed.
TEST(Sampling, FollowsTheDistribution) {
  SamplingParams params;
  params.temperature = 1;
  params.seed = 7;
  EXPECT_LT(chi_squared(draw_many(kLogits, params, kDraws), {3. / 15, 5. / 15, 1. / 15, 4. / 15, 2. / 15}, kDraws),
            23.5);
  params.temperature = 0.5;  // squares the probabilities
  EXPECT_LT(chi_squared(draw_many(kLogits, params, kDraws), {9. / 55, 25. / 55, 1. / 55, 16. / 55, 4. / 55}, kDraws),
            23.5);
}

TEST(Sampling, TopKAndTopPCutTheTail) {
  SamplingParams params;
  params.temperature = 1;
  params.top_k = 2;
  EXPECT_LT(chi_squared(draw_many(kLogits, params, kDraws), {0, 5. / 9, 0, 4. / 9, 0}, kDraws), 23.5);
  params.top_k = 0;
  params.top_p = 0.7f;  // 5 + 4 of 15 are 0.6, with the 3 it is 0.8
  EXPECT_LT(chi_squared(draw_many(kLogits, params, kDraws), {3. / 12, 5. / 12, 0, 4. / 12, 0}, kDraws), 23.5);
  params.top_k = 4;  // first the 4 likeliest, then 0.7 of their 14: 9.8
  EXPECT_LT(chi_squared(draw_many(kLogits, params, kDraws), {3. / 12, 5. / 12, 0, 4. / 12, 0}, kDraws), 23.5);
  params.top_p = 0;
  EXPECT_EQ(draw_many(kLogits, params, 50)[1], 50);
}

TEST(Sampling, TiesAtTheCutGoToTheLowestIndex) {
  SamplingParams params;
  params.temperature = 1;
  params.top_k = 2;
  const std::vector<int> counts = draw_many({1, 1, 1, 1}, params, 1000);
  EXPECT_EQ(counts[0] + counts[1], 1000);
  EXPECT_GT(counts[1], 400);
}

TEST(Sampling, ADrawIsAFunctionOfSeedAndPosition) {
  SamplingParams params;
  params.temperature = 1;
  params.seed = 3;
  const int32_t at_five = sample_token(kLogits, params, 5);
  for (int i = 0; i < 5; ++i) sample_token(kLogits, params, i);
  EXPECT_EQ(sample_token(kLogits, params, 5), at_five);
  SamplingParams other = params;
  other.seed = 4;
  int differ = 0;
  for (int i = 0; i < 200; ++i) differ += sample_token(kLogits, params, i) != sample_token(kLogits, other, i);
  EXPECT_GT(differ, 100);
}

TEST(Sampling, NothingIsDrawnFromLogitsThatAreNoNumbers) {
  SamplingParams drawn;
  drawn.temperature = 1;
  for (const SamplingParams& params : {SamplingParams{}, drawn}) {
    EXPECT_EQ(sample_token(std::vector<float>{1, std::nanf("")}, params, 0), kNotFinite);
    EXPECT_EQ(sample_token(std::vector<float>{1, std::numeric_limits<float>::infinity()}, params, 0), kNotFinite);
    EXPECT_EQ(sample_token(std::vector<float>{-std::numeric_limits<float>::infinity(), 1}, params, 0), kNotFinite);
  }
  EXPECT_THROW(sample_token(std::vector<float>{}, {}, 0), Error);
}

}  // namespace
}  // namespace qg
