#pragma once
// Device memory for tests: filled from and read back into host vectors, poisoned in between.
#include <cstdint>
#include <cstring>
#include <vector>

#include "core/float.h"
#include "core/rng.h"
#include "kernels/common/cuda.h"

namespace qg::testing {

inline constexpr int kPoison = 0xff;  // not a number in float, half and e4m3; -1 in integers

template <class T>
class DeviceVector {
 public:
  explicit DeviceVector(size_t count) : buffer_(count * sizeof(T)), count_(count) { poison(); }
  explicit DeviceVector(const std::vector<T>& values) : DeviceVector(values.size()) {
    QG_CUDA(cudaMemcpy(buffer_.data(), values.data(), buffer_.bytes(), cudaMemcpyHostToDevice));
  }
  T* data() const { return buffer_.as<T>(); }
  void poison() { QG_CUDA(cudaMemset(buffer_.data(), kPoison, buffer_.bytes())); }
  std::vector<T> read() const {
    QG_CUDA(cudaDeviceSynchronize());
    std::vector<T> values(count_);
    QG_CUDA(cudaMemcpy(values.data(), buffer_.data(), buffer_.bytes(), cudaMemcpyDeviceToHost));
    return values;
  }

 private:
  DeviceBuffer buffer_;
  size_t count_;
};

inline std::vector<float> normal_values(size_t count, uint64_t seed, float deviation = 1) {
  const Rng rng(seed);
  std::vector<float> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = deviation * static_cast<float>(rng.normal(i));
  return values;
}

inline std::vector<uint16_t> to_half(const std::vector<float>& values) {
  std::vector<uint16_t> half(values.size());
  f16_from_f32(values.data(), half.data(), values.size());
  return half;
}

inline std::vector<uint16_t> to_bfloat(const std::vector<float>& values) {
  std::vector<uint16_t> bits(values.size());
  bf16_from_f32(values.data(), bits.data(), values.size());
  return bits;
}

inline std::vector<float> from_bfloat(const std::vector<uint16_t>& bits) {
  std::vector<float> values(bits.size());
  f32_from_bf16(bits.data(), values.data(), bits.size());
  return values;
}

inline std::vector<float> from_half(const std::vector<uint16_t>& half) {
  std::vector<float> values(half.size());
  f32_from_f16(half.data(), values.data(), half.size());
  return values;
}

}  // namespace qg::testing
