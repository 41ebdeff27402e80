// The tolerance of fp8 sums (rounding_bounds.h) against an emulation of what linear_case.h says of the tensor cores, on
// inputs of the kinds that real models have.
#include "tests/runtime/rounding_bounds.h"

#include <gtest/gtest.h>

#include "core/float.h"
#include "core/rng.h"

namespace qg::test {
namespace {

// The sum of products of k inputs and weights, 32 at a time, each and the sum so far cut towards zero to 2^-13 of the
// power of two below the largest of them.
double cut_sum(const float* x, const float* w, int64_t k) {
  double sum = 0;
  for (int64_t begin = 0; begin < k; begin += 32) {
    double products[32], largest = std::fabs(sum);
    for (int64_t i = 0; i < 32; ++i) {
      products[i] = static_cast<double>(x[begin + i]) * static_cast<double>(w[begin + i]);
      largest = std::max(largest, std::fabs(products[i]));
    }
    if (largest == 0) continue;
    int exponent;
    std::frexp(largest, &exponent);  // largest = [1/2, 1) * 2^exponent
    const double step = std::ldexp(1.0, exponent - 1 - 13);
    double total = std::trunc(sum / step);
    for (const double p : products) total += std::trunc(p / step);
    sum = total * step;
  }
  return sum;
}

float e4m3(double x) {
  return f32_from_e4m3(e4m3_from_f32(static_cast<float>(x)));
}

struct Kind {
  const char* name;
  double mean;     // of inputs and weights, beside deviations of one: products of one sign prevail
  double outlier;  // factor of input 100
  bool turns;      // products of the second half have the other sign: sums that go far and come back
};

TEST(RoundingBounds, CoverSumsThatTensorCoresCut) {
  constexpr int64_t m = 24, n = 64;
  for (const int64_t k : {576, 1536})
    for (const Kind& kind : {Kind{"random", 0, 1, false}, Kind{"one sign prevails", 0.5, 1, false},
                             Kind{"an outlier", 0, 60, false}, Kind{"there and back", 0.7, 1, true}}) {
      std::vector<float> x(static_cast<size_t>(m * k)), w(static_cast<size_t>(n * k));
      const Rng of_x(3), of_w(4);
      for (size_t i = 0; i < x.size(); ++i) {
        const auto column = static_cast<int64_t>(i) % k;
        x[i] = e4m3((of_x.normal(i) + kind.mean) * (column == 100 ? kind.outlier : 1) *
                    (kind.turns && column >= k / 2 ? -1 : 1));
      }
      for (size_t i = 0; i < w.size(); ++i) w[i] = e4m3(of_w.normal(i) + kind.mean);
      const std::vector<double> variance = cut_variance(w, x, m, n, k);
      double worst = 0, squares = 0;
      for (int64_t row = 0; row < m; ++row)
        for (int64_t column = 0; column < n; ++column) {
          double exact = 0;
          for (int64_t i = 0; i < k; ++i)
            exact += static_cast<double>(x[static_cast<size_t>(row * k + i)]) *
                     static_cast<double>(w[static_cast<size_t>(column * k + i)]);
          const double off = cut_sum(x.data() + row * k, w.data() + column * k, k) - exact;
          const double share =
              std::fabs(off) / kDeviations / std::sqrt(variance[static_cast<size_t>(row * n + column)]);
          worst = std::max(worst, share);
          squares += share * share;
        }
      const double rms = std::sqrt(squares / (m * n));
      printf("k = %ld, %s: of the tolerance %.3f at most, %.3f rms\n", k, kind.name, worst, rms);
      EXPECT_LT(worst, 1) << kind.name;
      EXPECT_GT(rms, 0.02) << kind.name << ": a tolerance that finds nothing";
    }
}

}  // namespace
}  // namespace qg::test
