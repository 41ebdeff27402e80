#include "quantize/error_feedback.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/rng.h"

namespace qg {
namespace {

constexpr int64_t kRows = 512, kIn = 96, kOut = 40;

// Correlated inputs: a random mix of fewer sources, and some noise.
std::vector<float> correlated_inputs() {
  std::vector<float> mix(32 * kIn), x(static_cast<size_t>(kRows * kIn));
  for (size_t i = 0; i < mix.size(); ++i) mix[i] = static_cast<float>(Rng(1).normal(i));
  for (int64_t r = 0; r < kRows; ++r)
    for (int64_t c = 0; c < kIn; ++c) {
      double sum = 0.3 * Rng(3).normal(static_cast<uint64_t>(r * kIn + c));
      for (int64_t s = 0; s < 32; ++s)
        sum += Rng(2).normal(static_cast<uint64_t>(r * 32 + s)) *
               static_cast<double>(mix[static_cast<size_t>(s * kIn + c)]);
      x[static_cast<size_t>(r * kIn + c)] = static_cast<float>(sum);
    }
  return x;
}

std::vector<float> gram_of(const std::vector<float>& x) {
  std::vector<float> g(static_cast<size_t>(kIn * kIn));
  for (int64_t i = 0; i < kIn; ++i)
    for (int64_t j = 0; j < kIn; ++j) {
      double sum = 0;
      for (int64_t r = 0; r < kRows; ++r)
        sum += static_cast<double>(x[static_cast<size_t>(r * kIn + i)]) *
               static_cast<double>(x[static_cast<size_t>(r * kIn + j)]);
      g[static_cast<size_t>(i * kIn + j)] = static_cast<float>(sum);
    }
  return g;
}

double output_error(const std::vector<float>& x, const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (int64_t r = 0; r < kRows; ++r)
    for (int64_t o = 0; o < kOut; ++o) {
      double gap = 0;
      for (int64_t c = 0; c < kIn; ++c)
        gap += static_cast<double>(x[static_cast<size_t>(r * kIn + c)]) *
               static_cast<double>(a[static_cast<size_t>(o * kIn + c)] - b[static_cast<size_t>(o * kIn + c)]);
      sum += gap * gap;
    }
  return sum;
}

TEST(FeedbackFactor, IsTheFactorOfTheInverse) {
  const std::vector<float> x = correlated_inputs(), g = gram_of(x);
  const FeedbackFactor factor(g, kIn, 0.01, false);
  double mean = 0;
  for (int64_t i = 0; i < kIn; ++i) mean += static_cast<double>(g[static_cast<size_t>(i * kIn + i)]) / kIn;
  // (G + damp) * (U^T U) = identity
  for (int64_t i = 0; i < kIn; i += 7)
    for (int64_t j = 0; j < kIn; j += 5) {
      double sum = 0;
      for (int64_t t = 0; t < kIn; ++t) {
        double inverse = 0;
        for (int64_t s = 0; s <= std::min(t, j); ++s)
          inverse += static_cast<double>(factor.row(s)[t]) * static_cast<double>(factor.row(s)[j]);
        sum += (static_cast<double>(g[static_cast<size_t>(i * kIn + t)]) + (i == t ? 0.01 * mean : 0)) * inverse;
      }
      EXPECT_NEAR(sum, i == j ? 1 : 0, 1e-3) << i << " " << j;
    }
}

TEST(RoundWithFeedback, BeatsRoundToNearestInBothOrders) {
  const std::vector<float> x = correlated_inputs();
  std::vector<float> w(static_cast<size_t>(kOut * kIn)), plain(w.size());
  for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(Rng(4).normal(i));
  constexpr float kStep = 0.4f;
  for (size_t i = 0; i < w.size(); ++i) plain[i] = std::nearbyint(w[i] / kStep) * kStep;
  const double nearest = output_error(x, w, plain);
  for (const bool by_importance : {false, true}) {
    std::vector<float> work = w, kept(w.size(), NAN);
    const FeedbackFactor factor(gram_of(x), kIn, 0.01, by_importance);
    round_with_feedback(work, kOut, factor, [&](int64_t row, int64_t column, float value) {
      return kept[static_cast<size_t>(row * kIn + column)] = std::nearbyint(value / kStep) * kStep;
    });
    EXPECT_LT(output_error(x, w, kept), 0.35 * nearest) << by_importance;
  }
}

TEST(RoundWithFeedback, WithUncorrelatedInputsIsRoundToNearest) {
  std::vector<float> g(static_cast<size_t>(kIn * kIn), 0.0f), w(static_cast<size_t>(kOut * kIn));
  for (int64_t i = 0; i < kIn; ++i) g[static_cast<size_t>(i * kIn + i)] = 1.0f + static_cast<float>(i % 5);
  for (size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(Rng(4).normal(i));
  std::vector<float> work = w;
  round_with_feedback(work, kOut, FeedbackFactor(g, kIn, 0.01, true), [&](int64_t row, int64_t column, float value) {
    EXPECT_NEAR(value, w[static_cast<size_t>(row * kIn + column)], 1e-5);
    return std::nearbyint(value);
  });
}

// Wide matrices are permuted and factorized in place in float: the same factor, to float's accuracy.
TEST(FeedbackFactor, InPlaceGivesTheSameFactor) {
  const std::vector<float> g = gram_of(correlated_inputs());
  const FeedbackFactor in_double(g, kIn, 0.01, true), in_place(g, kIn, 0.01, true, 0);
  ASSERT_EQ(in_double.order(), in_place.order());
  EXPECT_FALSE(std::is_sorted(in_place.order().begin(), in_place.order().end())) << "nothing was permuted";
  for (int64_t r = 0; r < kIn; ++r)
    for (int64_t c = 0; c < kIn; ++c) {
      const double scale = std::sqrt(std::fabs(in_double.row(r)[r] * in_double.row(c)[c]));
      ASSERT_NEAR(in_double.row(r)[c], in_place.row(r)[c], 2e-3 * scale) << r << ", " << c;
      if (c < r) {
        ASSERT_EQ(in_place.row(r)[c], 0.0f);
      }
    }
}

// A matrix that no small damping makes definite is tried again from its own values, not from a half-written factor.
TEST(FeedbackFactor, InPlaceTriesAgainWithMoreDamping) {
  std::vector<float> g = {4, 6, 1, 6, 4,
                          2, 1, 2, 3};  // eigenvalues 10.6, 2.5 and -2.1: a tenth of the mean is too little
  const FeedbackFactor in_double(g, 3, 0.01, true), in_place(g, 3, 0.01, true, 0);
  for (int64_t r = 0; r < 3; ++r)
    for (int64_t c = 0; c < 3; ++c) ASSERT_NEAR(in_double.row(r)[c], in_place.row(r)[c], 1e-5) << r << ", " << c;
}

TEST(FeedbackFactor, SurvivesDeadChannelsAndRefusesNan) {
  std::vector<float> g(16, 0.0f);
  g[0] = 1;
  EXPECT_NO_THROW(FeedbackFactor(g, 4, 0.01, true));
  g[5] = NAN;
  g[1] = g[4] = NAN;
  EXPECT_THROW(FeedbackFactor(g, 4, 0.01, true), Error);
}

}  // namespace
}  // namespace qg
