#include "quantize/kv_shaping.h"

#include <cblas.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/float.h"
#include "core/multiversion.h"
#include "core/parallel.h"
#include "kernels/kvcache/shaping.h"
#include "kernels/lanes.h"
#include "kernels/pointwise/run.h"
#include "quantize/error_feedback.h"
#include "quantize/position_mean.h"

namespace qg {
namespace {

// Chosen on text that is neither calibrated on nor evaluated: .01 to .1 and .1 to .3 do equally well.
constexpr double kQueryDamp = 0.03;
constexpr double kKeyDamp = 0.1;
constexpr int64_t kSampledKeys = 16384;  // whose largest element sets the scales
constexpr float kFp8Top = 224.0f;        // of 448: feedback makes values grow
constexpr float kInt8Top = 120.0f;       // of 127

// c [m, n] = a [m, k] b (or b^T); leading dimensions in elements.
void product(const float* a, int64_t lda, const float* b, int64_t ldb, bool b_transposed, float* c, int64_t m,
             int64_t n, int64_t k) {
  cblas_sgemm(CblasRowMajor, CblasNoTrans, b_transposed ? CblasTrans : CblasNoTrans, static_cast<int>(m),
              static_cast<int>(n), static_cast<int>(k), 1.0f, a, static_cast<int>(lda), b, static_cast<int>(ldb), 0.0f,
              c, static_cast<int>(n));
}

// sum += x^T x, x [rows, n] dense.
void add_gram(const std::vector<float>& x, int64_t rows, int64_t n, SmallMatrix& sum) {
  std::vector<float> gram(static_cast<size_t>(n * n));
  cblas_sgemm(CblasRowMajor, CblasTrans, CblasNoTrans, static_cast<int>(n), static_cast<int>(n), static_cast<int>(rows),
              1.0f, x.data(), static_cast<int>(n), x.data(), static_cast<int>(n), 0.0f, gram.data(),
              static_cast<int>(n));
  for (size_t i = 0; i < gram.size(); ++i) sum.values[i] += static_cast<double>(gram[i]);
}

QG_MULTIVERSION float square_sum(const float* x, int64_t n) {
  float sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += x[i] * x[i];
  return sum;
}

// Scores of positions [begin, end) to softmax probabilities, everything else to zero.
QG_MULTIVERSION void softmax(float* row, int64_t begin, int64_t end, int64_t width, float scale) {
  float largest = row[begin];
  for (int64_t j = begin; j < end; ++j) largest = row[j] > largest ? row[j] : largest;
  for (int64_t j = begin; j < end; ++j) row[j] = exp_lane((row[j] - largest) * scale);
  float sum = 0;
  for (int64_t j = begin; j < end; ++j) sum += row[j];
  for (int64_t j = begin; j < end; ++j) row[j] /= sum;
  for (int64_t j = 0; j < begin; ++j) row[j] = 0;
  for (int64_t j = end; j < width; ++j) row[j] = 0;
}

// row[j] becomes p_j^2 |v_j - o|^2. cross[j] = v_j . o
QG_MULTIVERSION float costs(float* row, const float* cross, const float* value_squares, float output_square,
                            int64_t width) {
  float sum = 0;
  for (int64_t j = 0; j < width; ++j) {
    const float distance = value_squares[j] + output_square - 2 * cross[j];
    row[j] = row[j] * row[j] * (distance > 0 ? distance : 0.0f);
    sum += row[j];
  }
  return sum;
}

std::vector<float> rounded_to_f16(const SmallMatrix& a) {
  std::vector<float> out(a.values.size());
  for (size_t i = 0; i < out.size(); ++i) out[i] = f32_from_f16(f16_from_f32(static_cast<float>(a.values[i])));
  return out;
}

SmallMatrix from_floats(const std::vector<float>& values, int64_t n) {
  SmallMatrix out(n);
  std::copy(values.begin(), values.end(), out.values.begin());
  return out;
}

// With at least `damp` of its mean diagonal added; the unit matrix when there is nothing in it.
SmallMatrix damped(const SmallMatrix& a, double damp) {
  SmallMatrix out = a;
  const double mean = a.mean_diagonal();
  if (!(mean > 0)) {
    out = SmallMatrix(a.n);
    out.add_to_diagonal(1);
    return out;
  }
  out.add_to_diagonal(damp * mean);
  for (double more = damp; cholesky(out).n == 0; more *= 10) out.add_to_diagonal(more * mean);  // rounding made it so
  return out;
}

std::vector<double> center_of(const KeyStatistics& head, int64_t rows) {
  std::vector<double> center = head.plain_sum;
  for (double& c : center) c /= static_cast<double>(std::max<int64_t>(rows, 1));
  return center;
}

// Mean of weight * (k - center)(k - center)^T.
SmallMatrix covariance(const KeyStatistics& head, const std::vector<double>& center) {
  const int64_t n = head.key_moment.n;
  SmallMatrix c(n);
  if (!(head.key_weight > 0)) return c;
  const auto at = [](const std::vector<double>& x, int64_t i) { return x[static_cast<size_t>(i)]; };
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < n; ++j)
      c(i, j) = (head.key_moment(i, j) - at(head.key_sum, i) * at(center, j) - at(center, i) * at(head.key_sum, j) +
                 head.key_weight * at(center, i) * at(center, j)) /
                head.key_weight;
  return c;
}

// T, [stored, key]: whitens the keys, then makes all elements matter alike when they are rounded one after the other.
SmallMatrix key_transform(const SmallMatrix& keys, const SmallMatrix& queries) {
  const SmallMatrix root = cholesky(keys);
  const Eigen eigen = eigen_of_symmetric(transposed(root) * queries * root);
  std::vector<double> squares = eigen.values;
  for (double& s : squares) s = std::max(s, 1e-9 * squares.back());
  return transposed(eigen.vectors * equal_diagonal_rotation(squares)) * inverse(root);
}

// As if the calibration text had stood everywhere in a context.
KeyStatistics moved(const KeyStatistics& head, const PositionMean& anywhere) {
  KeyStatistics out(head.key_moment.n);
  out.query_gram = anywhere.of_moment(head.query_gram);
  out.key_moment = anywhere.of_moment(head.key_moment);
  out.key_sum = anywhere.of_sum(head.key_sum);
  out.key_weight = head.key_weight;
  out.plain_sum = anywhere.of_sum(head.plain_sum);
  return out;
}

template <class T>
void require_finite(const T* x, size_t count) {
  if (!std::all_of(x, x + count, [](T v) { return std::isfinite(v); }))
    throw Error("the calibration activations hold NaN or infinity", "",
                "check the model with `quantgrid inspect` and the calibration text");
}

void append(std::vector<float>& to, const std::vector<float>& values) {
  to.insert(to.end(), values.begin(), values.end());
}

// One KV head's matrices, stored with input elements as rows. unit: size of a shaped key's elements.
KvShaping shape_head(const KeyStatistics& head, int64_t rows, double unit) {
  KvShaping shaping;
  const int64_t n = head.key_moment.n;
  const std::vector<double> center = center_of(head, rows);
  const SmallMatrix queries = damped(head.query_gram, kQueryDamp);
  SmallMatrix transform =
      transposed(key_transform(damped(covariance(head, center), kKeyDamp), queries));  // [key, stored]
  for (double& v : transform.values) v *= unit;
  const std::vector<float> stored = rounded_to_f16(transform);
  const SmallMatrix back = inverse(from_floats(stored, n));  // [stored, key]
  // Queries go through T^-T, which is `back`; stored with input elements as rows it is transposed.
  append(shaping.q_transform, rounded_to_f16(transposed(back)));
  append(shaping.k_transform, stored);
  for (const double c : center) shaping.k_center.push_back(static_cast<float>(c));

  const SmallMatrix shaped_queries = back * queries * transposed(back);
  const double size = 1 / shaped_queries.mean_diagonal();
  std::vector<float> gram;
  for (const double v : shaped_queries.values) gram.push_back(static_cast<float>(v * size));
  const FeedbackFactor factor(std::move(gram), n, 1e-6, false);
  SmallMatrix feedback(n);
  for (int64_t j = 0; j < n; ++j)
    for (int64_t i = j + 1; i < n; ++i)
      feedback(j, i) = static_cast<double>(factor.row(j)[i]) / static_cast<double>(factor.row(j)[j]);
  append(shaping.k_feedback, rounded_to_f16(feedback));
  return shaping;
}

}  // namespace

int64_t key_sample_stride(int64_t total_rows) {
  return (total_rows + kSampledKeys - 1) / kSampledKeys;
}

std::vector<float> output_factor(const SmallMatrix& gram) {
  const SmallMatrix factor = cholesky(damped(gram, 1e-6));
  return {factor.values.begin(), factor.values.end()};
}

KvShaping shaping_of(const std::vector<KeyStatistics>& calibrated, int64_t rows, const ModelShape& shape) {
  const PositionMean anywhere(rope_frequencies(shape), shape.max_position);
  std::vector<KeyStatistics> heads;
  double mean = 0;
  for (const KeyStatistics& found : calibrated) {
    require_finite(found.query_gram.values.data(), found.query_gram.values.size());
    require_finite(found.key_moment.values.data(), found.key_moment.values.size());
    heads.push_back(moved(found, anywhere));
  }
  for (const KeyStatistics& head : heads)
    mean += covariance(head, center_of(head, rows)).mean_diagonal() / static_cast<double>(heads.size());
  // Shaped keys keep the size of the layer's keys, so that all matrices are near 1.
  const double unit = mean > 0 ? std::sqrt(mean) : 1;
  std::vector<KvShaping> parts(heads.size());
  parallel_for(static_cast<int64_t>(heads.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      parts[static_cast<size_t>(i)] = shape_head(heads[static_cast<size_t>(i)], rows, unit);
  });
  KvShaping shaping;
  for (const KvShaping& part : parts) {
    append(shaping.k_center, part.k_center);
    append(shaping.k_transform, part.k_transform);
    append(shaping.q_transform, part.q_transform);
    append(shaping.k_feedback, part.k_feedback);
  }
  return shaping;
}

void set_shaped_scales(KvShaping& shaping, float largest) {
  if (!(largest > 0)) return;
  shaping.fp8_k_scale = largest / kFp8Top;
  shaping.int8_k_scale = largest / kInt8Top;
}

KeyStatistics::KeyStatistics(int64_t head_dim)
    : query_gram(head_dim),
      key_moment(head_dim),
      key_sum(static_cast<size_t>(head_dim)),
      plain_sum(static_cast<size_t>(head_dim)) {}

KvShapingCollector::KvShapingCollector(const ModelShape& shape, const std::vector<float>& attention_output,
                                       int64_t total_rows)
    : shape_(shape),
      heads_(static_cast<size_t>(shape.kv_heads), KeyStatistics(shape.head_dim)),
      sample_stride_(key_sample_stride(total_rows)) {
  const int64_t n = shape.head_dim;
  std::vector<float> columns(static_cast<size_t>(shape.hidden * n));
  for (int64_t head = 0; head < shape.heads; ++head) {
    for (int64_t r = 0; r < shape.hidden; ++r)
      std::copy_n(attention_output.data() + r * shape.q_rows() + head * n, n, columns.data() + r * n);
    SmallMatrix gram(n);
    add_gram(columns, shape.hidden, n, gram);
    output_factor_.push_back(output_factor(gram));
  }
}

void KvShapingCollector::add(const float* qkv, int64_t rows) {
  require_finite(qkv, static_cast<size_t>(rows * shape_.qkv_rows()));
  for (int64_t kv_head = 0; kv_head < shape_.kv_heads; ++kv_head) {
    std::vector<float> weights(static_cast<size_t>(rows));
    for (int64_t i = 0; i < shape_.group(); ++i) add_queries(qkv, rows, kv_head * shape_.group() + i, weights);
    for (float& w : weights) w = std::sqrt(w);
    add_keys(qkv, rows, kv_head, weights);
  }
  keep_sample(qkv, rows);
  rows_seen_ += rows;
}

void KvShapingCollector::add_queries(const float* qkv, int64_t rows, int64_t head, std::vector<float>& column_weights) {
  const int64_t n = shape_.head_dim, stride = shape_.qkv_rows(), kv_head = head / shape_.group();
  const float* k = qkv + shape_.q_rows() + kv_head * n;
  const float* v = k + shape_.kv_rows();
  const int64_t step = std::max<int64_t>(1, rows / kSampledQueries), m = (rows + step - 1) / step;
  const auto position = [&](int64_t i) { return rows - 1 - i * step; };
  std::vector<float> q(static_cast<size_t>(m * n)), scores(static_cast<size_t>(m * rows)), cross(scores.size());
  std::vector<float> values(static_cast<size_t>(rows * n)), outputs(q.size()), value_squares(static_cast<size_t>(rows));
  for (int64_t i = 0; i < m; ++i) std::copy_n(qkv + position(i) * stride + head * n, n, q.data() + i * n);
  product(q.data(), n, k, stride, true, scores.data(), m, rows, n);
  const float scale = 1.0f / std::sqrt(static_cast<float>(n));
  parallel_for(m, 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t sees = position(i) + 1;
      const int64_t first = shape_.sliding_window ? std::max<int64_t>(0, sees - *shape_.sliding_window) : 0;
      softmax(scores.data() + i * rows, first, sees, rows, scale);
    }
  });
  product(v, stride, output_factor_[static_cast<size_t>(head)].data(), n, false, values.data(), rows, n, n);
  for (int64_t j = 0; j < rows; ++j) value_squares[static_cast<size_t>(j)] = square_sum(values.data() + j * n, n);
  product(scores.data(), rows, values.data(), n, false, outputs.data(), m, n, rows);
  product(outputs.data(), n, values.data(), n, true, cross.data(), m, rows, n);
  for (int64_t i = 0; i < m; ++i) {
    float* row = scores.data() + i * rows;
    const float weight =
        costs(row, cross.data() + i * rows, value_squares.data(), square_sum(outputs.data() + i * n, n), rows);
    const float query_square = square_sum(q.data() + i * n, n), root = std::sqrt(weight);
    for (int64_t j = 0; j < rows; ++j) column_weights[static_cast<size_t>(j)] += row[j] * query_square;
    for (int64_t j = 0; j < n; ++j) q[static_cast<size_t>(i * n + j)] *= root;
  }
  add_gram(q, m, n, heads_[static_cast<size_t>(kv_head)].query_gram);
}

void KvShapingCollector::add_keys(const float* qkv, int64_t rows, int64_t kv_head, const std::vector<float>& weights) {
  const int64_t n = shape_.head_dim;
  KeyStatistics& head = heads_[static_cast<size_t>(kv_head)];
  std::vector<float> keys(static_cast<size_t>(rows * n));
  for (int64_t r = 0; r < rows; ++r) {
    const float* k = qkv + r * shape_.qkv_rows() + shape_.q_rows() + kv_head * n;
    const float weight = weights[static_cast<size_t>(r)], root = std::sqrt(weight);
    head.key_weight += static_cast<double>(weight);
    for (int64_t i = 0; i < n; ++i) {
      head.plain_sum[static_cast<size_t>(i)] += static_cast<double>(k[i]);
      head.key_sum[static_cast<size_t>(i)] += static_cast<double>(weight) * static_cast<double>(k[i]);
      keys[static_cast<size_t>(r * n + i)] = root * k[i];
    }
  }
  add_gram(keys, rows, n, head.key_moment);
}

void KvShapingCollector::keep_sample(const float* qkv, int64_t rows) {
  for (int64_t r = 0; r < rows; ++r) {
    if (r >= kFirstKeys && (rows_seen_ + r) % sample_stride_ != 0) continue;
    const float* k = qkv + r * shape_.qkv_rows() + shape_.q_rows();
    sample_.insert(sample_.end(), k, k + shape_.kv_rows());
  }
}

KvShaping KvShapingCollector::finish() const {
  KvShaping shaping = shaping_of(heads_, rows_seen_, shape_);
  float largest = 0;
  std::vector<float> shaped(static_cast<size_t>(shape_.head_dim));
  for (size_t at = 0; at < sample_.size(); at += static_cast<size_t>(shape_.head_dim)) {
    const int64_t head = static_cast<int64_t>(at) / shape_.head_dim % shape_.kv_heads;
    shape_key(shaping, head, shape_.head_dim, sample_.data() + at, shaped.data());
    for (const float x : shaped) largest = std::max(largest, std::fabs(x));
  }
  set_shaped_scales(shaping, largest);
  return shaping;
}

}  // namespace qg
