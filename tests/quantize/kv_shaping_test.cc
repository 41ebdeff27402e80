// Calibration of shaped keys: the matrices do what they are for, on random heads with correlated channels.
#include "quantize/kv_shaping.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "core/error.h"
#include "core/float.h"
#include "kernels/kvcache/run.h"
#include "kernels/kvcache/shaping.h"
#include "kernels/pointwise/run.h"

namespace qg {
namespace {

SmallMatrix random_matrix(int64_t n, unsigned seed) {
  std::mt19937 generator(seed);
  std::normal_distribution<double> normal;
  SmallMatrix a(n);
  for (double& v : a.values) v = normal(generator);
  return a;
}

double largest_difference(const SmallMatrix& a, const SmallMatrix& b) {
  double largest = 0;
  for (size_t i = 0; i < a.values.size(); ++i) largest = std::max(largest, std::fabs(a.values[i] - b.values[i]));
  return largest;
}

SmallMatrix diagonal(const std::vector<double>& values) {
  SmallMatrix a(static_cast<int64_t>(values.size()));
  for (int64_t i = 0; i < a.n; ++i) a(i, i) = values[static_cast<size_t>(i)];
  return a;
}

TEST(SmallMatrix, FactorsMultiplyBackToTheMatrix) {
  for (const int64_t n : {1, 2, 7, 33}) {
    const SmallMatrix a = random_matrix(n, 1), one = diagonal(std::vector<double>(static_cast<size_t>(n), 1.0));
    EXPECT_LT(largest_difference(a * inverse(a), one), 1e-8) << n;
    SmallMatrix symmetric = a * transposed(a);
    symmetric.add_to_diagonal(0.1);
    const SmallMatrix root = cholesky(symmetric);
    EXPECT_LT(largest_difference(root * transposed(root), symmetric), 1e-10) << n;
    const Eigen eigen = eigen_of_symmetric(symmetric);
    EXPECT_LT(largest_difference(eigen.vectors * diagonal(eigen.values) * transposed(eigen.vectors), symmetric), 1e-10);
    EXPECT_TRUE(std::is_sorted(eigen.values.begin(), eigen.values.end()));
  }
  EXPECT_EQ(cholesky(diagonal({1, -1})).n, 0);
  EXPECT_THROW(inverse(diagonal({1, 0})), Error);
}

// P^T D P = M M^T with M upper: its diagonal, from the last row upwards, is what is left of each row by those below.
TEST(SmallMatrix, RotationMakesAllDiagonalElementsEqual) {
  for (const std::vector<double>& squares :
       {std::vector<double>{4}, {1, 9}, {2, 2, 2}, {1e-6, 1, 3, 1e4, 5, 0.2}, {100, 1, 1, 1, 1, 1, 1}}) {
    const SmallMatrix p = equal_diagonal_rotation(squares);
    const int64_t n = p.n;
    EXPECT_LT(largest_difference(p * transposed(p), diagonal(std::vector<double>(squares.size(), 1.0))), 1e-9);
    const SmallMatrix turned = transposed(p) * diagonal(squares) * p;
    SmallMatrix reversed(n);
    for (int64_t r = 0; r < n; ++r)
      for (int64_t c = 0; c < n; ++c) reversed(r, c) = turned(n - 1 - r, n - 1 - c);
    const SmallMatrix factor = cholesky(reversed);
    double mean = 0;
    for (const double s : squares) mean += 0.5 * std::log(s) / static_cast<double>(n);
    for (int64_t i = 0; i < n; ++i) EXPECT_NEAR(factor(i, i) / std::exp(mean), 1, 1e-6) << n << " " << i;
  }
}

class ShapedKeys : public testing::Test {
 protected:
  void SetUp() override {
    shape_.layers = 1;
    shape_.hidden = 48;
    shape_.heads = 4;
    shape_.kv_heads = 2;
    shape_.head_dim = 32;
    std::mt19937 generator(11);
    std::normal_distribution<float> normal;
    output_.resize(static_cast<size_t>(shape_.hidden * shape_.q_rows()));
    for (float& w : output_) w = 0.1f * normal(generator);
    // Channels that are correlated and of very different size, keys with a mean.
    const int64_t n = shape_.head_dim;
    for (int64_t head = 0; head < shape_.heads + shape_.kv_heads; ++head)
      mix_.push_back(random_matrix(n, 20 + static_cast<unsigned>(head)));
    for (int64_t s = 0; s < 4; ++s) sequences_.push_back(sequence(generator, s == 0 ? 33 : 90));
  }

  std::vector<float> sequence(std::mt19937& generator, int64_t rows) {
    std::normal_distribution<double> normal;
    const int64_t n = shape_.head_dim;
    std::vector<float> qkv(static_cast<size_t>(rows * shape_.qkv_rows()));
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t head = 0; head < shape_.heads + 2 * shape_.kv_heads; ++head) {
        float* x = qkv.data() + r * shape_.qkv_rows() + head * n;
        for (int64_t j = 0; j < n; ++j) {
          const double z = normal(generator) * std::exp(-0.15 * static_cast<double>(j));
          for (int64_t i = 0; i < n; ++i) {
            if (head >= shape_.heads + shape_.kv_heads)
              x[i] += static_cast<float>(i == j ? z : 0);
            else
              x[i] += static_cast<float>(0.4 * z * mix_[static_cast<size_t>(head)](j, i));
          }
        }
        if (head >= shape_.heads && head < shape_.heads + shape_.kv_heads) x[3] += 5;
      }
    }
    return qkv;
  }

  KvShaping calibrated() const {
    int64_t total = 0;
    for (const auto& s : sequences_) total += rows_of(s);
    KvShapingCollector collector(shape_, output_, total);
    for (const auto& s : sequences_) collector.add(s.data(), rows_of(s));
    return collector.finish();
  }
  int64_t rows_of(const std::vector<float>& s) const { return static_cast<int64_t>(s.size()) / shape_.qkv_rows(); }

  // Mean square change of q . k by rounding the keys, over the queries and keys of all sequences. feedback: 1 the
  // matrices' own, 0 none.
  double score_error(KvFormat format, const KvShaping* shaping, float feedback) const {
    const int64_t n = shape_.head_dim;
    KvShaping used = shaping ? *shaping : KvShaping();
    for (float& f : used.k_feedback) f *= feedback;
    double sum = 0;
    int64_t count = 0;
    for (const auto& s : sequences_) {
      std::vector<float> shaped = s;
      if (shaping) shape_queries(used, shape_.heads, shape_.kv_heads, n, shaped.data(), shape_.qkv_rows(), rows_of(s));
      for (int64_t r = 0; r < rows_of(s); r += 3) {
        for (int64_t head = 0; head < shape_.kv_heads; ++head) {
          const float* k = s.data() + r * shape_.qkv_rows() + shape_.q_rows() + head * n;
          std::vector<std::byte> codes(static_cast<size_t>(n));
          std::vector<float> exact(static_cast<size_t>(n)), back(exact);
          float scale = shaping ? used.k_scale(format) : 0.05f;
          if (shaping) {
            shape_key(used, head, n, k, exact.data());
            store_shaped_key(used, format, scale, head, n, k, codes.data(), back.data());
          } else {
            std::copy_n(k, n, exact.data());
            kv_encode(format, scale, k, codes.data(), n);
          }
          kv_decode(format, scale, codes.data(), back.data(), n);
          for (int64_t r2 = 0; r2 < rows_of(s); r2 += 2) {
            const float* q = shaped.data() + r2 * shape_.qkv_rows() + head * shape_.group() * n;
            double change = 0;
            for (int64_t i = 0; i < n; ++i)
              change += static_cast<double>(q[i]) * (static_cast<double>(back[static_cast<size_t>(i)]) -
                                                     static_cast<double>(exact[static_cast<size_t>(i)]));
            sum += change * change;
            ++count;
          }
        }
      }
    }
    return sum / static_cast<double>(count);
  }

  // The same text further on: RoPE turns its keys and queries alike.
  void move(int64_t positions) {
    for (auto& s : sequences_) {
      const RopeTable table =
          make_rope_table(rope_frequencies(shape_), std::vector<int64_t>(static_cast<size_t>(rows_of(s)), positions));
      rope(table, s.data(), shape_.qkv_rows(), rows_of(s), shape_.heads + shape_.kv_heads, shape_.head_dim);
    }
  }

  ModelShape shape_;
  std::vector<float> output_;
  std::vector<SmallMatrix> mix_;
  std::vector<std::vector<float>> sequences_;
};

TEST_F(ShapedKeys, ScoresStayWhatTheyAreUpToOneNumberAQuery) {
  const KvShaping shaping = calibrated();
  const int64_t n = shape_.head_dim;
  std::vector<float> shaped = sequences_[1];
  shape_queries(shaping, shape_.heads, shape_.kv_heads, n, shaped.data(), shape_.qkv_rows(), rows_of(shaped));
  double error = 0, size = 0;
  for (int64_t head = 0; head < shape_.heads; ++head) {
    const int64_t kv_head = head / shape_.group();
    for (int64_t r = 0; r < rows_of(shaped); ++r) {
      const float* q = sequences_[1].data() + r * shape_.qkv_rows() + head * n;
      const float* shaped_q = shaped.data() + r * shape_.qkv_rows() + head * n;
      const float* k =
          sequences_[1].data() + (r * 7 % rows_of(shaped)) * shape_.qkv_rows() + shape_.q_rows() + kv_head * n;
      std::vector<float> shaped_k(static_cast<size_t>(n));
      shape_key(shaping, kv_head, n, k, shaped_k.data());
      double plain = 0, through = 0;
      for (int64_t i = 0; i < n; ++i) {
        plain +=
            static_cast<double>(q[i]) *
            (static_cast<double>(k[i]) - static_cast<double>(shaping.k_center[static_cast<size_t>(kv_head * n + i)]));
        through += static_cast<double>(shaped_q[i]) * static_cast<double>(shaped_k[static_cast<size_t>(i)]);
      }
      error += (plain - through) * (plain - through);
      size += plain * plain;
    }
  }
  EXPECT_LT(std::sqrt(error / size), 1e-3);  // matrices are rounded to F16: 2^-11 an element
}

TEST_F(ShapedKeys, FeedbackAndTransformBothLowerTheErrorOfScores) {
  const KvShaping shaping = calibrated();
  const double plain = score_error(KvFormat::fp8, nullptr, 0), nearest = score_error(KvFormat::fp8, &shaping, 0),
               ours = score_error(KvFormat::fp8, &shaping, 1), int8 = score_error(KvFormat::int8, &shaping, 1);
  RecordProperty("plain_nearest_ours",
                 std::to_string(plain) + " " + std::to_string(nearest) + " " + std::to_string(ours));
  EXPECT_LT(ours, 0.5 * nearest) << plain << " plain, " << nearest << " without feedback, " << ours;
  EXPECT_LT(ours, 0.1 * plain) << plain << " plain, " << nearest << " without feedback, " << ours;
  EXPECT_LT(int8, ours);
}

TEST_F(ShapedKeys, HoldFurtherOnThanTheCalibrationText) {
  shape_.max_position = 0;
  const KvShaping here = calibrated();
  shape_.max_position = 4096;
  const KvShaping anywhere = calibrated();
  const double at_home = score_error(KvFormat::fp8, &here, 1);
  move(1500);
  const double plain = score_error(KvFormat::fp8, nullptr, 0), far = score_error(KvFormat::fp8, &here, 1),
               ours = score_error(KvFormat::fp8, &anywhere, 1);
  RecordProperty("home_far_ours_plain", std::to_string(at_home) + " " + std::to_string(far) + " " +
                                            std::to_string(ours) + " " + std::to_string(plain));
  // Turned at random angles, these keys have little left that a matrix could use: but no harm is done either.
  EXPECT_LT(ours, 0.01 * far) << at_home << " where it was calibrated, " << far << " further on, " << ours;
  EXPECT_LT(ours, plain) << plain << " plain, " << ours;
}

TEST_F(ShapedKeys, MatricesFitInF16AndKeysInTheirRange) {
  const KvShaping shaping = calibrated();
  for (const auto* matrix : {&shaping.k_transform, &shaping.q_transform, &shaping.k_feedback}) {
    ASSERT_EQ(matrix->size(), static_cast<size_t>(2 * 32 * 32));
    for (const float v : *matrix) EXPECT_EQ(v, f32_from_f16(f16_from_f32(v)));
  }
  float largest = 0;
  std::vector<float> shaped(32);
  for (const auto& s : sequences_)
    for (int64_t r = 0; r < rows_of(s); ++r)
      for (int64_t head = 0; head < 2; ++head) {
        shape_key(shaping, head, 32, s.data() + r * shape_.qkv_rows() + shape_.q_rows() + head * 32, shaped.data());
        for (const float x : shaped) largest = std::max(largest, std::fabs(x));
      }
  EXPECT_NEAR(largest / shaping.fp8_k_scale, 224, 0.1);
  EXPECT_NEAR(largest / shaping.int8_k_scale, 120, 0.1);
}

TEST_F(ShapedKeys, SurvivesHeadsThatDoNothing) {
  for (auto& s : sequences_) std::fill(s.begin(), s.end(), 0.0f);
  const KvShaping shaping = calibrated();
  for (const auto* values : {&shaping.k_center, &shaping.k_transform, &shaping.q_transform, &shaping.k_feedback})
    for (const float v : *values) ASSERT_TRUE(std::isfinite(v));
  sequences_[2][5] = NAN;
  EXPECT_THROW(calibrated(), Error);
}

}  // namespace
}  // namespace qg
