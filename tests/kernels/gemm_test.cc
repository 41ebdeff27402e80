#include "kernels/linear/gemm.h"

#include <gtest/gtest.h>

#include "core/parallel.h"
#include "tests/kernels/naive.h"

namespace qg {
namespace {

using test::poisoned;
using test::random_floats;

// A float sum of k products is off by at most k roundings of the sum of magnitudes; partial sums and a tree do better.
double bound(const float* a, const float* b, int64_t stride_b, int64_t k) {
  double magnitude = 0;
  for (int64_t i = 0; i < k; ++i) magnitude += std::fabs(static_cast<double>(a[i]) * b[i * stride_b]);
  return magnitude * (static_cast<double>(k) / 16 + 5) * 0x1p-24;
}

TEST(Gemm, EqualsADoubleLoopOnAwkwardShapes) {
  for (const int64_t m : {1, 2, 3, 4, 5, 6, 7, 8, 17, 65}) {
    for (const int64_t k : {1, 15, 16, 33, 64, 130}) {
      const int64_t n = 3 + 7 * (m % 4) + (m == 65 ? 64 : 0);
      const std::vector<float> x = random_floats(m * k, 1), w = random_floats(n * k, 2);
      std::vector<float> y = poisoned(m * n);
      matmul_nt(x.data(), w.data(), y.data(), m, n, k);
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          const float *a = x.data() + i * k, *b = w.data() + j * k;
          double sum = 0;
          for (int64_t t = 0; t < k; ++t) sum += static_cast<double>(a[t]) * b[t];
          ASSERT_NEAR(y[static_cast<size_t>(i * n + j)], sum, bound(a, b, 1, k)) << m << " " << n << " " << k;
        }
      }
    }
  }
}

TEST(Gemm, ARowsResultDoesNotDependOnTheOtherRowsOrOnThreads) {
  const int64_t m = 37, n = 131, k = 200;
  const std::vector<float> x = random_floats(m * k, 3), w = random_floats(n * k, 4);
  std::vector<float> all = poisoned(m * n);
  matmul_nt(x.data(), w.data(), all.data(), m, n, k);
  for (const int64_t rows : {1, 2, 3, 4, 5, 8, 36}) {
    std::vector<float> some = poisoned(rows * n);
    matmul_nt(x.data(), w.data(), some.data(), rows, n, k);
    EXPECT_TRUE(std::equal(some.begin(), some.end(), all.begin())) << rows << " rows";
  }
  const int threads = num_threads();
  for (const int wanted : {1, 3}) {
    set_num_threads(wanted);
    std::vector<float> again = poisoned(m * n);
    matmul_nt(x.data(), w.data(), again.data(), m, n, k);
    EXPECT_EQ(again, all) << wanted << " threads";
  }
  set_num_threads(threads);
}

TEST(Gemm, InstructionSetsGiveTheSameBits) {
  const int64_t m = 13, n = 30, k = 150, t = 21, d = 48;
  const std::vector<float> x = random_floats(m * k, 9), w = random_floats(n * k, 10);
  const std::vector<float> p = random_floats(m * t, 11), v = random_floats(t * d, 12);
  std::vector<std::vector<float>> products, sums;
  for (int version = 0; version < num_gemm_versions(); ++version) {
    use_gemm_version(version);
    products.push_back(poisoned(m * n));
    matmul_nt(x.data(), w.data(), products.back().data(), m, n, k);
    sums.push_back(poisoned(m * d));
    gemm_block_nn(p.data(), t, v.data(), sums.back().data(), m, t, d);
    EXPECT_EQ(products.back(), products.front()) << version;
    EXPECT_EQ(sums.back(), sums.front()) << version;
  }
}

TEST(Gemm, Int8ProductsAreExact) {
  // 20,000 inputs: one float could not hold the sum, and a lane must be emptied on the way.
  for (const int64_t k : {16, 64, 1040, 20000}) {
    const int64_t m = 5, n = 6, padded_n = round_up(n, kGemmRows);
    std::vector<int> x = test::random_ints(m * k, 5, -127, 127), w = test::random_ints(n * k, 6, -127, 127);
    std::fill_n(x.begin(), k, 127);  // the largest sum there is
    std::fill_n(w.begin(), k, 127);
    const std::vector<float> xf(x.begin(), x.end());
    std::vector<float> wf(w.begin(), w.end());
    wf.resize(static_cast<size_t>(padded_n * k), 0.0f);
    std::vector<int32_t> y(static_cast<size_t>(m * n), -1);
    gemm_block_int8(xf.data(), k, wf.data(), k, y.data(), n, m, n, k);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        int64_t sum = 0;
        for (int64_t t = 0; t < k; ++t) sum += x[static_cast<size_t>(i * k + t)] * w[static_cast<size_t>(j * k + t)];
        ASSERT_EQ(y[static_cast<size_t>(i * n + j)], sum) << k;
      }
    }
  }
}

TEST(Gemm, WeightedSumsOfRows) {
  for (const int64_t m : {1, 3, 4, 9}) {
    for (const int64_t d : {16, 48, 64, 80, 128}) {
      const int64_t t = 37, ldp = 48;
      const std::vector<float> p = random_floats(m * ldp, 7), v = random_floats(t * d, 8);
      std::vector<float> out = poisoned(m * d);
      gemm_block_nn(p.data(), ldp, v.data(), out.data(), m, t, d);
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t c = 0; c < d; ++c) {
          double sum = 0;
          for (int64_t s = 0; s < t; ++s)
            sum += static_cast<double>(p[static_cast<size_t>(i * ldp + s)]) * v[static_cast<size_t>(s * d + c)];
          ASSERT_NEAR(out[static_cast<size_t>(i * d + c)], sum, 16 * bound(p.data() + i * ldp, v.data() + c, d, t));
        }
      }
    }
  }
}

}  // namespace
}  // namespace qg
