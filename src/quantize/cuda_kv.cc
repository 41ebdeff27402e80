#include "quantize/cuda_kv.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/parallel.h"
#include "kernels/quantize/cuda_statistics.h"
#include "quantize/kv_scales.h"

namespace qg {
namespace {

enum Scalar { kKeyMax, kValueMax, kShapedMax, kScalars };

size_t floats(int64_t count) {
  return static_cast<size_t>(count) * sizeof(float);
}
size_t doubles(int64_t count) {
  return static_cast<size_t>(count) * sizeof(double);
}

template <class T>
std::vector<T> read(const T* from, int64_t count, cudaStream_t stream) {
  std::vector<T> values(static_cast<size_t>(count));
  QG_CUDA(cudaMemcpyAsync(values.data(), from, values.size() * sizeof(T), cudaMemcpyDeviceToHost, stream));
  QG_CUDA(cudaStreamSynchronize(stream));
  return values;
}

void upload(const std::vector<float>& from, const DeviceBuffer& to, cudaStream_t stream) {
  QG_CUDA(cudaMemcpyAsync(to.data(), from.data(), floats(static_cast<int64_t>(from.size())), cudaMemcpyHostToDevice,
                          stream));
  QG_CUDA(cudaStreamSynchronize(stream));
}

int64_t query_step(int64_t rows) {
  return std::max<int64_t>(1, rows / kSampledQueries);
}
int64_t query_count(int64_t rows) {
  return (rows + query_step(rows) - 1) / query_step(rows);
}

// Rows whose keys are sampled, of all sequences (KvShapingCollector::keep_sample).
std::vector<int32_t> sampled_rows(const std::vector<int64_t>& lengths, int64_t total) {
  std::vector<int32_t> rows;
  int64_t first = 0;
  for (const int64_t length : lengths) {
    for (int64_t r = 0; r < length; ++r)
      if (r < kFirstKeys || (first + r) % key_sample_stride(total) == 0)
        rows.push_back(static_cast<int32_t>(first + r));
    first += length;
  }
  return rows;
}

}  // namespace

CudaKvCollector::CudaKvCollector(const ModelShape& shape, const std::vector<int64_t>& lengths, const CudaQueue& queue)
    : shape_(shape), queue_(queue), rows_(std::accumulate(lengths.begin(), lengths.end(), int64_t{0})) {
  const int64_t d = shape.head_dim, g = shape.kv_heads, h = shape.heads;
  sampled_rows_ = sampled_rows(lengths, rows_);
  sampled_list_ = DeviceBuffer(sampled_rows_.size() * sizeof(int32_t));
  QG_CUDA(cudaMemcpy(sampled_list_.data(), sampled_rows_.data(), sampled_list_.bytes(), cudaMemcpyHostToDevice));
  kept_ = DeviceBuffer(sampled_rows_.size() * static_cast<size_t>(shape.kv_rows()) * sizeof(__half));
  sums_ = DeviceBuffer(doubles(2 * g * d * d + 2 * g * d + g));
  view_.query_gram = sums_.as<double>();
  view_.key_moment = view_.query_gram + g * d * d;
  view_.key_sum = view_.key_moment + g * d * d;
  view_.plain_sum = view_.key_sum + g * d;
  view_.key_weight = view_.plain_sum + g * d;
  grams_ = DeviceBuffer(doubles(h * d * d));
  factors_ = DeviceBuffer(floats(h * d * d));
  int64_t longest = 0, queries = 0;
  for (const int64_t length : lengths) {
    longest = std::max(longest, length);
    queries = std::max(queries, query_count(length));
  }
  scratch_ = DeviceBuffer(floats(h * (2 * queries * longest + longest * (d + 1) + 2 * queries * d) + g * longest));
  float* next = scratch_.as<float>();
  const auto take = [&](int64_t count) {
    float* at = next;
    next += count;
    return at;
  };
  parts_.scores = take(h * queries * longest);
  parts_.cross = take(h * queries * longest);
  parts_.values = take(h * longest * d);
  parts_.squares = take(h * longest);
  parts_.outputs = take(h * queries * d);
  parts_.queries = take(h * queries * d);
  parts_.weights = take(g * longest);
  const int64_t taken = rows_ * shape.kv_rows() / kKvSampleStride + 1;
  key_values_ = DeviceBuffer(floats(taken));
  value_values_ = DeviceBuffer(floats(taken));
  scalars_ = DeviceBuffer(floats(kScalars));
  column_max_ = DeviceBuffer(floats(shape.qkv_rows()));
  column_sums_ = DeviceBuffer(doubles(shape.qkv_rows()));
  column_scratch_ = DeviceBuffer(static_cast<size_t>(column_statistics_scratch_bytes(shape.qkv_rows())));
  errors_ = DeviceBuffer(doubles(kInt8ScaleSteps));
  center_ = DeviceBuffer(floats(g * d));
  transform_ = DeviceBuffer(floats(g * d * d));
}

void CudaKvCollector::begin_layer(const __half* attention_output) {
  const int64_t d = shape_.head_dim, h = shape_.heads;
  QG_CUDA(cudaMemsetAsync(sums_.data(), 0, sums_.bytes(), queue_.stream));
  for (const DeviceBuffer* zeroed : {&scalars_, &column_max_, &column_sums_})
    QG_CUDA(cudaMemsetAsync(zeroed->data(), 0, zeroed->bytes(), queue_.stream));
  head_grams(queue_, attention_output, shape_.hidden, h, d, grams_.as<double>());
  const std::vector<double> grams = read(grams_.as<double>(), h * d * d, queue_.stream);
  std::vector<float> factors(grams.size());
  parallel_for(h, 1, [&](int64_t begin, int64_t end) {
    for (int64_t head = begin; head < end; ++head) {
      SmallMatrix gram(d);
      std::copy_n(grams.begin() + head * d * d, d * d, gram.values.begin());
      const std::vector<float> factor = output_factor(gram);
      std::copy(factor.begin(), factor.end(), factors.begin() + head * d * d);
    }
  });
  upload(factors, factors_, queue_.stream);
}

void CudaKvCollector::add(const CudaKvChunk& chunk) {
  const int64_t rows = std::accumulate(chunk.lengths.begin(), chunk.lengths.end(), int64_t{0});
  const int64_t kv_rows = shape_.kv_rows(), end = chunk.first_row + rows;
  float* scalars = scalars_.as<float>();
  largest_magnitude(queue_, chunk.keys, rows, kv_rows, kv_rows, scalars + kKeyMax);
  largest_magnitude(queue_, chunk.values, rows, kv_rows, chunk.value_stride, scalars + kValueMax);
  if (chunk.value_stride != shape_.qkv_rows()) throw Error("values must be the last of rows of q, k and v");
  add_column_statistics(queue_, chunk.values - shape_.q_rows() - kv_rows, rows, chunk.value_stride,
                        column_max_.as<float>(), column_sums_.as<double>(), column_scratch_.data());
  take_every(queue_, chunk.keys, rows, kv_rows, kv_rows, chunk.first_row, kKvSampleStride, key_values_.as<float>());
  take_every(queue_, chunk.values, rows, kv_rows, chunk.value_stride, chunk.first_row, kKvSampleStride,
             value_values_.as<float>());
  const auto first = std::lower_bound(sampled_rows_.begin(), sampled_rows_.end(), chunk.first_row);
  const auto last = std::lower_bound(sampled_rows_.begin(), sampled_rows_.end(), end);
  const int64_t at = first - sampled_rows_.begin();
  gather_rows(queue_, chunk.keys, sampled_list_.as<int32_t>() + at, last - first, chunk.first_row, kv_rows,
              kept_.as<__half>() + at * kv_rows);
  KvSequence s;
  s.q_stride = shape_.q_rows();
  s.k_stride = kv_rows;
  s.v_stride = chunk.value_stride;
  s.heads = shape_.heads;
  s.kv_heads = shape_.kv_heads;
  s.head_dim = shape_.head_dim;
  s.window = shape_.sliding_window.value_or(0);
  s.output_factor = factors_.as<float>();
  int64_t row = 0;
  for (const int64_t length : chunk.lengths) {
    s.q = chunk.q + row * s.q_stride;
    s.k = chunk.keys + row * s.k_stride;
    s.v = chunk.values + row * s.v_stride;
    s.rows = length;
    s.queries = query_count(length);
    s.step = query_step(length);
    add_kv_sequence(queue_, s, parts_, view_);
    row += length;
  }
}

void CudaKvCollector::read_sums() {
  const int64_t d = shape_.head_dim, g = shape_.kv_heads;
  const std::vector<double> sums =
      read(sums_.as<double>(), static_cast<int64_t>(sums_.bytes() / sizeof(double)), queue_.stream);
  const double* next = sums.data();
  heads_.assign(static_cast<size_t>(g), KeyStatistics(d));
  const auto take = [&](auto member, int64_t count) {
    for (KeyStatistics& head : heads_) {
      std::copy_n(next, count, member(head));
      next += count;
    }
  };
  take([](KeyStatistics& head) { return head.query_gram.values.begin(); }, d * d);
  take([](KeyStatistics& head) { return head.key_moment.values.begin(); }, d * d);
  take([](KeyStatistics& head) { return head.key_sum.begin(); }, d);
  take([](KeyStatistics& head) { return head.plain_sum.begin(); }, d);
  for (KeyStatistics& head : heads_) head.key_weight = *next++;
}

void CudaKvCollector::start_shaping() {
  read_sums();
  shaping_ = std::async(std::launch::async, [this] { return shaping_of(heads_, rows_, shape_); });
}

int64_t CudaKvCollector::sampled_elements() const {
  return (rows_ * shape_.kv_rows() + kKvSampleStride - 1) / kKvSampleStride;
}

// KvCollector::scale.
KvScale CudaKvCollector::read_scale(KvFormat format) {
  const int64_t count = sampled_elements();
  KvScale scale;
  for (const bool key : {true, false}) {
    float* amax = scalars_.as<float>() + (key ? kKeyMax : kValueMax);
    const float largest = read(amax, 1, queue_.stream)[0];
    if (!std::isfinite(largest))
      throw Error("the calibration activations hold NaN or infinity", key ? "keys" : "values",
                  "check the model with `quantgrid inspect` and the calibration text");
    float& to = key ? scale.k : scale.v;
    to = 1;
    if (!(largest > 0)) continue;
    to = largest / 448.0f;
    if (format != KvFormat::int8) continue;
    int8_scale_errors(queue_, (key ? key_values_ : value_values_).as<float>(), count, amax, errors_.as<double>());
    const std::vector<double> errors = read(errors_.as<double>(), kInt8ScaleSteps, queue_.stream);
    const auto best = std::min_element(errors.begin(), errors.end()) - errors.begin();
    to = largest / 127.0f * (1.0f - 0.025f * static_cast<float>(best));
  }
  return scale;
}

LayerKv CudaKvCollector::finish() {
  LayerKv kv;
  kv.fp8 = read_scale(KvFormat::fp8);
  kv.int8 = read_scale(KvFormat::int8);
  kv.value_max = read(column_max_.as<float>() + shape_.q_rows() + shape_.kv_rows(), shape_.kv_rows(), queue_.stream);
  kv.values = read(value_values_.as<float>(), sampled_elements(), queue_.stream);
  kv.shaping = shaping_.get();
  upload(kv.shaping.k_center, center_, queue_.stream);
  upload(kv.shaping.k_transform, transform_, queue_.stream);
  float* largest = scalars_.as<float>() + kShapedMax;
  largest_shaped(queue_, kept_.as<__half>(), static_cast<int64_t>(sampled_rows_.size()), shape_.kv_heads,
                 shape_.head_dim, center_.as<float>(), transform_.as<float>(), largest);
  set_shaped_scales(kv.shaping, read(largest, 1, queue_.stream)[0]);
  return kv;
}

}  // namespace qg
