// The KV cache's calibration on the GPU against the CPU's collectors, on the same values.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>

#include "quantize/cuda_kv.h"
#include "quantize/kv_scales.h"
#include "tests/gpu/quantize_case.h"

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

LayerKv on_cpu(const ModelShape& s, const std::vector<float>& wo, const std::vector<float>& qkv,
               const std::vector<int64_t>& lengths) {
  KvCollector keys, values;
  int64_t rows = 0;
  for (const int64_t length : lengths) rows += length;
  KvShapingCollector shaping(s, wo, rows);
  const float* at = qkv.data();
  for (const int64_t length : lengths) {
    for (int64_t r = 0; r < length; ++r) {
      const float* k = at + r * s.qkv_rows() + s.q_rows();
      keys.add({k, static_cast<size_t>(s.kv_rows())});
      values.add({k + s.kv_rows(), static_cast<size_t>(s.kv_rows())});
    }
    shaping.add(at, length);
    at += length * s.qkv_rows();
  }
  LayerKv kv;
  kv.fp8 = {keys.scale(KvFormat::fp8), values.scale(KvFormat::fp8)};
  kv.int8 = {keys.scale(KvFormat::int8), values.scale(KvFormat::int8)};
  kv.shaping = shaping.finish();
  return kv;
}

std::vector<uint16_t> columns(const std::vector<float>& x, int64_t stride, int64_t first, int64_t count) {
  std::vector<float> taken;
  for (size_t r = 0; r < x.size(); r += static_cast<size_t>(stride))
    taken.insert(taken.end(), x.begin() + static_cast<int64_t>(r) + first,
                 x.begin() + static_cast<int64_t>(r) + first + count);
  return to_half(taken);
}

LayerKv on_gpu(const ModelShape& s, const std::vector<float>& wo, const std::vector<float>& qkv,
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
  return kv;
}

double largest_gap(const std::vector<float>& a, const std::vector<float>& b) {
  EXPECT_EQ(a.size(), b.size());
  double gap = 0, size = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    gap = std::max(gap, static_cast<double>(std::fabs(a[i] - b[i])));
    size = std::max(size, static_cast<double>(std::fabs(a[i])));
  }
  return std::isfinite(gap) ? gap / size : INFINITY;
}

// M M^T of each head's matrix. A rotation of the stored elements that changes nothing of what is minimized may come out
// in another way; it leaves this alone.
std::vector<float> products(const std::vector<float>& matrices, int64_t n) {
  std::vector<float> out;
  for (size_t head = 0; head < matrices.size(); head += static_cast<size_t>(n * n))
    for (int64_t i = 0; i < n; ++i)
      for (int64_t j = 0; j < n; ++j) {
        double sum = 0;
        for (int64_t p = 0; p < n; ++p)
          sum += static_cast<double>(matrices[head + static_cast<size_t>(i * n + p)]) *
                 static_cast<double>(matrices[head + static_cast<size_t>(j * n + p)]);
        out.push_back(static_cast<float>(sum));
      }
  return out;
}

TEST(QuantizeKv, FindsTheCpusScalesAndMatrices) {
  for (const int64_t head_dim : {64, 128})
    for (const std::optional<int64_t> window : {std::optional<int64_t>{}, std::optional<int64_t>{20}}) {
      const ModelShape s = shape_of(head_dim, window);
      const std::vector<int64_t> lengths{150, 37, 64, 300};
      const std::vector<float> wo = half_values(normal_values(static_cast<size_t>(s.hidden * s.q_rows()), 32, 0.05f));
      const std::vector<float> qkv = activations(s, 551);
      const LayerKv cpu = on_cpu(s, wo, qkv, lengths), gpu = on_gpu(s, wo, qkv, lengths);
      EXPECT_EQ(gpu.fp8.k, cpu.fp8.k);
      EXPECT_EQ(gpu.fp8.v, cpu.fp8.v);
      EXPECT_NEAR(gpu.int8.k, cpu.int8.k, 1e-5f * cpu.int8.k);
      EXPECT_NEAR(gpu.int8.v, cpu.int8.v, 1e-5f * cpu.int8.v);
      const double gaps[] = {
          largest_gap(cpu.shaping.k_center, gpu.shaping.k_center),
          largest_gap(products(cpu.shaping.k_transform, head_dim), products(gpu.shaping.k_transform, head_dim)),
          largest_gap(products(cpu.shaping.q_transform, head_dim), products(gpu.shaping.q_transform, head_dim)),
          largest_gap(cpu.shaping.k_feedback, gpu.shaping.k_feedback)};
      std::printf("head_dim %d, window %d: center %.1e transform %.1e queries %.1e feedback %.1e scale %.1e\n",
                  static_cast<int>(head_dim), static_cast<int>(window.value_or(0)), gaps[0], gaps[1], gaps[2], gaps[3],
                  static_cast<double>(gpu.shaping.fp8_k_scale / cpu.shaping.fp8_k_scale - 1));
      EXPECT_LT(gaps[0], 1e-5);
      for (const double gap : gaps) EXPECT_LT(gap, 0.01);
      EXPECT_NEAR(gpu.shaping.fp8_k_scale, cpu.shaping.fp8_k_scale, 0.01f * cpu.shaping.fp8_k_scale);
      EXPECT_NEAR(gpu.shaping.int8_k_scale, cpu.shaping.int8_k_scale, 0.01f * cpu.shaping.int8_k_scale);
    }
}

}  // namespace
}  // namespace qg::testing
