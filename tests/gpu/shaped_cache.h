#pragma once
// What tests of the cache on the device share: angles of RoPE, and random matrices for shaped keys.
#include <cmath>
#include <numeric>
#include <vector>

#include "core/quant_spec.h"
#include "kernels/kvcache/cuda.h"
#include "kernels/pointwise/run.h"
#include "tests/gpu/device_vector.h"

namespace qg::testing {

inline constexpr int64_t kPositions = 5000;

inline std::vector<double> frequencies(int64_t head_dim) {
  std::vector<double> f;
  for (int64_t i = 0; i < head_dim / 2; ++i)
    f.push_back(std::pow(500000.0, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim)));
  return f;
}

inline std::vector<float2> device_table(int64_t head_dim) {
  std::vector<int64_t> positions(kPositions);
  std::iota(positions.begin(), positions.end(), 0);
  const RopeTable table = make_rope_table(frequencies(head_dim), positions);
  std::vector<float2> pairs(table.cosine.size());
  for (size_t i = 0; i < pairs.size(); ++i) pairs[i] = {table.cosine[i], table.sine[i]};
  return pairs;
}

inline std::vector<float> half_values(size_t count, uint64_t seed, float deviation) {
  return from_half(to_half(normal_values(count, seed, deviation)));
}

// Random matrices of the sizes and kinds that calibration makes; F is zero on and left of the diagonal.
// cancelling: sums of large numbers that cancel, so that what is left depends on the order and on every rounding.
inline KvShaping random_shaping(int64_t kv_heads, int64_t head_dim, bool cancelling) {
  const size_t heads = static_cast<size_t>(kv_heads), d = static_cast<size_t>(head_dim);
  KvShaping shaping;
  shaping.k_center = normal_values(heads * d, 21);
  shaping.k_transform = half_values(heads * d * d, 22, 0.1f);
  shaping.q_transform = half_values(heads * d * d, 23, 0.1f);
  shaping.k_feedback = half_values(heads * d * d, 24, 0.1f);
  for (size_t i = 0; i < shaping.k_feedback.size(); ++i)
    if (i % d <= i / d % d) shaping.k_feedback[i] = 0;
  if (!cancelling) return shaping;
  for (float& center : shaping.k_center) center -= 30000;
  for (size_t i = 0; i < shaping.k_transform.size(); ++i)
    shaping.k_transform[i] = i / d % 2 == 0 ? 8 * shaping.k_transform[i] : -shaping.k_transform[i - d];
  return shaping;
}

// The same on the device.
struct DeviceShaping {
  DeviceVector<float> center;
  DeviceVector<uint16_t> k, q, feedback;
  explicit DeviceShaping(const KvShaping& s)
      : center(s.k_center), k(to_half(s.k_transform)), q(to_half(s.q_transform)), feedback(to_half(s.k_feedback)) {}
  CudaKvShaping view() const {
    const auto half = [](const DeviceVector<uint16_t>& v) { return reinterpret_cast<const __half*>(v.data()); };
    return {center.data(), half(k), half(q), half(feedback)};
  }
};

}  // namespace qg::testing
