// The KV cache's calibration on the GPU against the CPU's collectors, on the same values.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>

#include "quantize/cuda_kv.h"
#include "quantize/kv_scales.h"
#include "tests/gpu/quantize_case.h"
#include "tests/quantize/kv_statistics_check.h"

namespace qg::testing {
namespace {

ModelShape shape_of(int64_t head_dim, std::optional<int64_t> window) {
  ModelShape s;
  s.layers = 1;
  s.hidden = 192;
  s.heads = 4;
  s.kv_heads = 2;
  s.head_dim = head_dim;
  s.sliding_window = window;
  return s;
}

// Keys with an offset and channels of very different size, as real ones have; queries and values plain.
std::vector<float> activations(const ModelShape& s, int64_t rows) {
  std::vector<float> x = normal_values(static_cast<size_t>(rows * s.qkv_rows()), 31);
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < s.kv_rows(); ++c) {
      float& k = x[static_cast<size_t>(r * s.qkv_rows() + s.q_rows() + c)];
      k = k * (c % 17 == 3 ? 6.0f : 0.7f) + (c % 11 == 5 ? 4.0f : 0.0f);
    }
  return half_values(std::move(x));
}

// What one side makes of a layer.
struct Calibrated {
  LayerKv kv;
  std::vector<KeyStatistics> statistics;
};

Calibrated on_cpu(const ModelShape& s, const std::vector<float>& wo, const std::vector<float>& qkv,
                  const std::vector<int64_t>& lengths) {
  KvCollector keys, values;
  LayerKv kv;
  kv.value_max.resize(static_cast<size_t>(s.kv_rows()));
  int64_t rows = 0;
  for (const int64_t length : lengths) rows += length;
  KvShapingCollector shaping(s, wo, rows);
  const float* at = qkv.data();
  for (const int64_t length : lengths) {
    for (int64_t r = 0; r < length; ++r) {
      const float* k = at + r * s.qkv_rows() + s.q_rows();
      keys.add({k, static_cast<size_t>(s.kv_rows())});
      values.add({k + s.kv_rows(), static_cast<size_t>(s.kv_rows())});
      for (size_t c = 0; c < kv.value_max.size(); ++c)
        kv.value_max[c] = std::max(kv.value_max[c], std::fabs(k[static_cast<size_t>(s.kv_rows()) + c]));
    }
    shaping.add(at, length);
    at += length * s.qkv_rows();
  }
  kv.values = values.sample();
  kv.fp8 = {keys.scale(KvFormat::fp8), values.scale(KvFormat::fp8)};
  kv.int8 = {keys.scale(KvFormat::int8), values.scale(KvFormat::int8)};
  kv.shaping = shaping.finish();
  return {kv, shaping.statistics()};
}

std::vector<uint16_t> columns(const std::vector<float>& x, int64_t stride, int64_t first, int64_t count) {
  std::vector<float> taken;
  for (size_t r = 0; r < x.size(); r += static_cast<size_t>(stride))
    taken.insert(taken.end(), x.begin() + static_cast<int64_t>(r) + first,
                 x.begin() + static_cast<int64_t>(r) + first + count);
  return to_half(taken);
}

Calibrated on_gpu(const ModelShape& s, const std::vector<float>& wo, const std::vector<float>& qkv,
                  const std::vector<int64_t>& lengths) {
  const CudaQueue queue;
  CudaKvCollector collector(s, lengths, queue);
  const DeviceVector<uint16_t> output(to_half(wo)), q(columns(qkv, s.qkv_rows(), 0, s.q_rows())),
      k(columns(qkv, s.qkv_rows(), s.q_rows(), s.kv_rows())), all(to_half(qkv));
  const auto half = [](const DeviceVector<uint16_t>& v) { return reinterpret_cast<const __half*>(v.data()); };
  LayerKv kv;
  for (int run = 0; run < 2; ++run) {  // the second as if for another layer: nothing of the first stays
    collector.begin_layer(half(output));
    int64_t row = 0;
    for (const size_t begin : {size_t{0}, size_t{1}}) {  // the first sequence, then the others
      CudaKvChunk chunk;
      chunk.lengths = begin == 0 ? std::span(lengths).first(1) : std::span(lengths).subspan(1);
      chunk.q = half(q) + row * s.q_rows();
      chunk.keys = half(k) + row * s.kv_rows();
      chunk.values = half(all) + row * s.qkv_rows() + s.q_rows() + s.kv_rows();
      chunk.value_stride = s.qkv_rows();
      chunk.first_row = row;
      collector.add(chunk);
      row += lengths[0];
    }
    collector.start_shaping();
    kv = collector.finish();
  }
  return {kv, collector.statistics()};
}

// The largest magnitude of a shaped key's element over all keys (of so few, all are sampled), and by how much a sum of
// head_dim + 1 terms in float may miss it.
Bounded largest_shaped(const ModelShape& s, const KvShaping& shaping, const std::vector<float>& qkv) {
  const int64_t d = s.head_dim;
  Bounded largest;
  for (size_t row = 0; row < qkv.size(); row += static_cast<size_t>(s.qkv_rows()))
    for (int64_t h = 0; h < s.kv_heads; ++h)
      for (int64_t i = 0; i < d; ++i) {
        double sum = 0, absolute = 0;
        for (int64_t j = 0; j < d; ++j) {
          const double key = static_cast<double>(qkv[row + static_cast<size_t>(s.q_rows() + h * d + j)]),
                       center = static_cast<double>(shaping.k_center[static_cast<size_t>(h * d + j)]),
                       element = static_cast<double>(shaping.k_transform[static_cast<size_t>((h * d + j) * d + i)]);
          sum += (key - center) * element;
          absolute += std::fabs(key - center) * std::fabs(element);
        }
        largest.value = std::max(largest.value, std::fabs(sum));
        largest.bound = std::max(largest.bound, gamma_of(d + 2) * absolute);
      }
  return largest;
}

// Scales are the CPU's to the bit where they are maxima; the statistics are right within what float may miss
// (tests/quantize/kv_statistics_check.h: a bound of each sum, in double, from the values alone); and the matrices are
// what the host makes of these statistics.
TEST(QuantizeKv, FindsTheCpusScalesAndRightMatrices) {
  for (const int64_t head_dim : {64, 128})
    for (const std::optional<int64_t> window : {std::optional<int64_t>{}, std::optional<int64_t>{20}}) {
      const ModelShape s = shape_of(head_dim, window);
      const std::vector<int64_t> lengths{150, 37, 64, 300};
      const std::vector<float> wo = half_values(normal_values(static_cast<size_t>(s.hidden * s.q_rows()), 32, 0.05f));
      const std::vector<float> qkv = activations(s, 551);
      const auto [cpu, cpu_statistics] = on_cpu(s, wo, qkv, lengths);
      const auto [gpu, gpu_statistics] = on_gpu(s, wo, qkv, lengths);
      EXPECT_EQ(gpu.fp8.k, cpu.fp8.k);
      EXPECT_EQ(gpu.fp8.v, cpu.fp8.v);
      EXPECT_EQ(gpu.value_max, cpu.value_max);
      EXPECT_EQ(gpu.values, cpu.values);
      // One of 21 shares of the maximum, by sums of squares that are summed in another order.
      EXPECT_NEAR(gpu.int8.k, cpu.int8.k, 4 * kUnit * cpu.int8.k);
      EXPECT_NEAR(gpu.int8.v, cpu.int8.v, 4 * kUnit * cpu.int8.v);

      const std::vector<KeyTruth> truth = key_truth(s, wo, qkv, lengths);
      const double ours = statistics_gap(gpu_statistics, truth), theirs = statistics_gap(cpu_statistics, truth);
      std::printf("head_dim %d, window %d: statistics miss by %.4f of the bound, the CPU's by %.4f\n",
                  static_cast<int>(head_dim), static_cast<int>(window.value_or(0)), ours, theirs);
      EXPECT_LE(ours, 1);
      EXPECT_LE(theirs, 1);
      const KvShaping made = shaping_of(gpu_statistics, 551, s);
      EXPECT_EQ(gpu.shaping.k_center, made.k_center);
      EXPECT_EQ(gpu.shaping.k_transform, made.k_transform);
      EXPECT_EQ(gpu.shaping.q_transform, made.q_transform);
      EXPECT_EQ(gpu.shaping.k_feedback, made.k_feedback);
      const Bounded largest = largest_shaped(s, gpu.shaping, qkv);
      KvShaping scaled = made;
      set_shaped_scales(scaled, static_cast<float>(largest.value));
      const double slack = largest.bound / largest.value + 4 * kUnit;
      EXPECT_NEAR(gpu.shaping.fp8_k_scale, scaled.fp8_k_scale, slack * scaled.fp8_k_scale);
      EXPECT_NEAR(gpu.shaping.int8_k_scale, scaled.int8_k_scale, slack * scaled.int8_k_scale);
    }
}

}  // namespace
}  // namespace qg::testing
