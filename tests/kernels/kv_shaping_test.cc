// Shaped keys against the definition in docs/kv-cache-notes.md, written down again here.
#include "kernels/kvcache/shaping.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "core/float.h"
#include "kernels/kvcache/run.h"
#include "tests/kernels/naive.h"

namespace qg {
namespace {

constexpr int64_t kHeads = 6, kKvHeads = 2;

std::vector<float> random_f16(int64_t count, unsigned seed, float scale) {
  std::vector<float> values = test::random_floats(count, seed, scale);
  for (float& v : values) v = f32_from_f16(f16_from_f32(v));
  return values;
}

KvShaping random_shaping(int64_t n) {
  KvShaping shaping;
  shaping.k_center = test::random_floats(kKvHeads * n, 1, 2.0f);
  shaping.k_transform = random_f16(kKvHeads * n * n, 2, 0.2f);
  shaping.q_transform = random_f16(kKvHeads * n * n, 3, 0.2f);
  shaping.k_feedback = random_f16(kKvHeads * n * n, 4, 0.3f);
  for (int64_t row = 0; row < kKvHeads * n; ++row)
    for (int64_t i = 0; i <= row % n; ++i) shaping.k_feedback[static_cast<size_t>(row * n + i)] = 0;
  shaping.fp8_k_scale = 0.013f;
  shaping.int8_k_scale = 0.031f;
  return shaping;
}

double code_value(KvFormat format, std::byte code) {
  const int bits = std::to_integer<int>(code);
  return format == KvFormat::fp8 ? test::e4m3_value(bits) : static_cast<int8_t>(bits);
}

double nearest(KvFormat format, double x) {
  return format == KvFormat::fp8 ? test::round_e4m3(x) : test::round_int8(x);
}

// In double precision, following the codes that were stored: each must be a nearest one of what its element had become
// (up to the float's rounding), and the errors of earlier elements must have been taken off.
void expect_stored(const KvShaping& shaping, KvFormat format, int64_t head, int64_t n, const float* x,
                   const std::byte* codes) {
  const auto at = [&](const std::vector<float>& matrix, int64_t row, int64_t column) {
    return static_cast<double>(matrix[static_cast<size_t>((head * n + row) * n + column)]);
  };
  std::vector<double> value(static_cast<size_t>(n));
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j)
      value[static_cast<size_t>(i)] +=
          at(shaping.k_transform, j, i) *
          (static_cast<double>(x[j]) - static_cast<double>(shaping.k_center[static_cast<size_t>(head * n + j)]));
    value[static_cast<size_t>(i)] /= static_cast<double>(shaping.k_scale(format));
  }
  for (int64_t j = 0; j < n; ++j) {
    const double t = value[static_cast<size_t>(j)], stored = code_value(format, codes[j]);
    EXPECT_LE(std::fabs(t - stored), std::fabs(t - nearest(format, t)) + 1e-3 + 1e-5 * std::fabs(t))
        << to_string(format) << ", element " << j << ": " << t << " stored as " << stored;
    for (int64_t i = j + 1; i < n; ++i) value[static_cast<size_t>(i)] -= (t - stored) * at(shaping.k_feedback, j, i);
  }
}

TEST(KvShaping, StoresKeysAsDefinedAndValuesAsBefore) {
  for (const int64_t n : {20, 64, 128}) {
    const KvShaping shaping = random_shaping(n);
    for (const KvFormat format : {KvFormat::fp8, KvFormat::int8}) {
      const KvLayout layout{format, kKvHeads, n, 4};
      const int64_t rows = 5, stride = kKvHeads * n + 3;
      const std::vector<float> k = test::random_floats(rows * stride, 5, 3.0f),
                               v = test::random_floats(rows * stride, 6);
      const std::vector<int32_t> pages{2, 0};
      const KvAppendPiece piece{0, rows, 2, pages};
      const KvScale scale{shaping.k_scale(format), 0.02f};
      std::vector<std::byte> pool(static_cast<size_t>(3 * layout.page_bytes()), std::byte{0x7f});
      run_kv_append_reference(layout, {k.data(), v.data(), stride, scale, {&piece, 1}, pool.data(), &shaping});
      for (int64_t row = 0; row < rows; ++row) {
        const int64_t token = row + 2, page = pages[static_cast<size_t>(token / 4)];
        for (int64_t head = 0; head < kKvHeads; ++head) {
          const int64_t from = row * stride + head * n;
          expect_stored(shaping, format, head, n, k.data() + from,
                        pool.data() + layout.offset(page, 0, head, token % 4));
          std::vector<std::byte> plain(static_cast<size_t>(n));
          kv_encode(format, 0.02f, v.data() + from, plain.data(), n);
          EXPECT_TRUE(std::equal(plain.begin(), plain.end(), pool.data() + layout.offset(page, 1, head, token % 4)));
        }
      }
      if (testing::Test::HasFailure()) return;
    }
  }
}

// To the bit, in the order that the notes give: what another executor relies on.
TEST(KvShaping, FusesEveryProductAndSumInTheOrderOfTheNotes) {
  const int64_t n = 64, head = 1, keys = 100;
  const KvShaping shaping = random_shaping(n);
  const std::vector<float> all = test::random_floats(keys * n, 7, 3.0f);
  const float *center = shaping.k_center.data() + head * n, *transform = shaping.k_transform.data() + head * n * n,
              *feedback = shaping.k_feedback.data() + head * n * n;
  const float multiplier = 1.0f / shaping.fp8_k_scale;
  std::vector<float> t(static_cast<size_t>(n)), shaped(t), scratch(t);
  std::vector<std::byte> wanted(static_cast<size_t>(n)), got(wanted);
  for (int64_t key = 0; key < keys; ++key) {
    const float* x = all.data() + key * n;
    for (int64_t i = 0; i < n; ++i) {
      float sum = transform[i] * (x[0] - center[0]);
      for (int64_t j = 1; j < n; ++j) sum = std::fma(transform[j * n + i], x[j] - center[j], sum);
      t[static_cast<size_t>(i)] = sum;
    }
    shape_key(shaping, head, n, x, shaped.data());
    ASSERT_EQ(shaped, t);
    for (float& value : t) value *= multiplier;
    for (int64_t j = 0; j < n; ++j) {
      const uint8_t code = e4m3_from_f32(t[static_cast<size_t>(j)]);
      wanted[static_cast<size_t>(j)] = std::byte{code};
      const float error = t[static_cast<size_t>(j)] - f32_from_e4m3(code);
      for (int64_t i = j + 1; i < n; ++i)
        t[static_cast<size_t>(i)] = std::fma(-error, feedback[j * n + i], t[static_cast<size_t>(i)]);
    }
    store_shaped_key(shaping, KvFormat::fp8, shaping.fp8_k_scale, head, n, x, got.data(), scratch.data());
    ASSERT_EQ(got, wanted);
    ASSERT_EQ(scratch, t);  // each element as it was when its code was made
  }
}

TEST(KvShaping, QueriesGoThroughTheMatrixOfTheirKvHead) {
  const int64_t n = 20, rows = 3, stride = kHeads * n + 7;
  const KvShaping shaping = random_shaping(n);
  const std::vector<float> before = test::random_floats(rows * stride, 8);
  std::vector<float> q = before;
  shape_queries(shaping, kHeads, kKvHeads, n, q.data(), stride, rows);
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t i = 0; i < stride; ++i) {
      const int64_t head = i / n, at = row * stride + i;
      if (head >= kHeads) {
        EXPECT_EQ(q[static_cast<size_t>(at)], before[static_cast<size_t>(at)]) << "past the queries";
        continue;
      }
      double wanted = 0;
      for (int64_t j = 0; j < n; ++j)
        wanted += static_cast<double>(shaping.q_transform[static_cast<size_t>(((head / 3) * n + j) * n + i % n)]) *
                  static_cast<double>(before[static_cast<size_t>(row * stride + head * n + j)]);
      EXPECT_NEAR(q[static_cast<size_t>(at)], wanted, 1e-5) << row << " " << i;
    }
  }
}

}  // namespace
}  // namespace qg
