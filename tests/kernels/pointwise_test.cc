#include "kernels/pointwise/run.h"

#include <gtest/gtest.h>

#include "core/tensor.h"
#include "kernels/blas.h"
#include "tests/kernels/naive.h"

namespace qg {
namespace {

using test::poisoned;
using test::random_floats;

TEST(Pointwise, RmsNorm) {
  for (const int64_t width : {1, 7, 64, 577}) {
    const int64_t m = 11;
    std::vector<float> x = random_floats(m * width, 1), weight = random_floats(width, 2), out = poisoned(m * width);
    std::fill_n(x.begin(), width, 0.0f);  // epsilon alone
    rms_norm(x.data(), weight.data(), 1e-5, out.data(), m, width);
    for (int64_t i = 0; i < m; ++i) {
      double squares = 0;
      for (int64_t c = 0; c < width; ++c) squares += std::pow(x[static_cast<size_t>(i * width + c)], 2);
      for (int64_t c = 0; c < width; ++c) {
        const double wanted = x[static_cast<size_t>(i * width + c)] /
                              std::sqrt(squares / static_cast<double>(width) + 1e-5) * weight[static_cast<size_t>(c)];
        ASSERT_NEAR(out[static_cast<size_t>(i * width + c)], wanted, std::fabs(wanted) * 3e-7);
      }
    }
  }
}

TEST(Pointwise, RopeTurnsPairsHalfAHeadApart) {
  ModelShape shape;
  shape.head_dim = 12;
  shape.rope_theta = 500.0;
  const std::vector<int64_t> positions{0, 1, 17, 4000};
  const int64_t heads = 3, stride = heads * 12 + 4;
  const std::vector<float> before = random_floats(4 * stride, 3);
  std::vector<float> x = before;
  rope(make_rope_table(rope_frequencies(shape), positions), x.data(), stride, 4, heads, 12);
  for (size_t row = 0; row < 4; ++row) {
    for (size_t i = 0; i < static_cast<size_t>(stride); ++i) {
      const size_t at = row * static_cast<size_t>(stride) + i;
      if (i >= 36) {
        EXPECT_EQ(x[at], before[at]) << "beyond the heads";
        continue;
      }
      const size_t pair = i % 12 % 6;
      const double angle = static_cast<double>(positions[row]) / std::pow(500.0, static_cast<double>(pair) / 6);
      const bool second = i % 12 >= 6;
      const double other = before[second ? at - 6 : at + 6];
      const double wanted = before[at] * std::cos(angle) + (second ? other : -other) * std::sin(angle);
      EXPECT_NEAR(x[at], wanted, 1e-6);
    }
  }
}

// Frequencies of Llama 3.1 (factor 8, 1, 4, 8192, theta 500000, head_dim 128): high ones kept, low ones divided by 8,
// and one in between worked out by hand from the definition.
TEST(Pointwise, Llama3ScalingOfFrequencies) {
  ModelShape shape;
  shape.head_dim = 128;
  shape.rope_theta = 500000;
  const std::vector<double> plain = rope_frequencies(shape);
  shape.rope_scaling = RopeScaling{8, 1, 4, 8192};
  const std::vector<double> scaled = rope_frequencies(shape);
  ASSERT_EQ(scaled.size(), 64u);
  int blended = 0;
  for (size_t i = 0; i < 64; ++i) {
    const double wavelength = 2 * M_PI / plain[i];
    if (wavelength < 2048) {
      EXPECT_EQ(scaled[i], plain[i]);
    } else if (wavelength > 8192) {
      EXPECT_DOUBLE_EQ(scaled[i], plain[i] / 8);
    } else {
      const double kept = (8192 / wavelength - 1) / 3;
      EXPECT_DOUBLE_EQ(scaled[i], plain[i] * (kept + (1 - kept) / 8));
      ++blended;
    }
  }
  EXPECT_EQ(blended, 6);
}

TEST(Pointwise, SiluMul) {
  std::vector<float> gate = random_floats(400, 4, 5.0f), up = random_floats(400, 5), out = poisoned(400);
  gate[0] = -200;
  gate[1] = 200;
  gate[2] = 0;
  silu_mul(gate.data(), up.data(), out.data(), 4, 100);
  for (size_t i = 0; i < 400; ++i) {
    const double wanted = gate[i] / (1 + std::exp(-static_cast<double>(gate[i]))) * up[i];
    EXPECT_NEAR(out[i], wanted, std::fabs(wanted) * 1e-6 + 1e-30) << gate[i];
  }
}

TEST(Pointwise, AddAndEmbedding) {
  std::vector<float> x = random_floats(30, 6), y = random_floats(30, 7), before = x;
  add(x.data(), y.data(), 3, 10);
  for (size_t i = 0; i < 30; ++i) EXPECT_EQ(x[i], before[i] + y[i]);

  std::vector<float> table;
  for (int i = 0; i < 35; ++i) table.push_back(static_cast<float>(i) / 8);
  const std::vector<int32_t> tokens{4, 0, 4, 6};
  for (const DType dtype : {DType::f16, DType::bf16, DType::f32}) {
    std::vector<float> out = poisoned(20);
    embedding(dtype, tensor_from_f32(table, {7, 5}, dtype).data, tokens, out.data(), 5);
    for (size_t i = 0; i < 20; ++i) EXPECT_EQ(out[i], table[static_cast<size_t>(tokens[i / 5]) * 5 + i % 5]);
  }
}

TEST(Pointwise, ActivationQuantization) {
  const int64_t m = 12, width = 37, ldq = 48;
  std::vector<float> x = random_floats(m * width, 8), multiplier = random_floats(width, 9);
  std::fill_n(x.begin() + 2 * width, width, 0.0f);
  for (int64_t c = 0; c < width; ++c) x[static_cast<size_t>(3 * width + c)] *= 1e-30f;
  for (const bool fp8 : {true, false}) {
    for (const float fixed : {0.0f, 0.02f}) {
      const auto quantize = fp8 ? quantize_activation_fp8 : quantize_activation_int8;
      std::vector<float> q = poisoned(m * ldq), scales = poisoned(m);
      quantize(x.data(), multiplier.data(), fixed, q.data(), ldq, scales.data(), m, width);
      for (int64_t i = 0; i < m; ++i) {
        std::vector<float> row;
        for (int64_t c = 0; c < width; ++c)
          row.push_back(x[static_cast<size_t>(i * width + c)] * multiplier[static_cast<size_t>(c)]);
        const float scale = scales[static_cast<size_t>(i)];
        const float of_row = static_cast<float>(test::amax(row.data(), width) / (fp8 ? 448 : 127));
        if (i != 2) {
          EXPECT_FLOAT_EQ(scale, fixed > 0 ? fixed : of_row);
        }
        for (int64_t c = 0; c < ldq; ++c) {
          const float scaled = c < width ? row[static_cast<size_t>(c)] * (1.0f / scale) : 0.0f;
          ASSERT_EQ(q[static_cast<size_t>(i * ldq + c)], fp8 ? test::round_e4m3(scaled) : test::round_int8(scaled));
        }
      }
    }
  }
}

TEST(Blas, IsSoundHere) {
  EXPECT_NO_THROW(require_sound_blas());
}

}  // namespace
}  // namespace qg
