#pragma once
// Sixteen floats computed side by side (GCC vector extension: one AVX-512 register, two AVX registers, four SSE ones),
// and an exponential that the compiler can vectorize. Passed by reference only, as their calling convention depends on
// the processor.
#include <bit>
#include <cstdint>
#include <cstring>

namespace qg {

typedef float Lanes __attribute__((vector_size(64)));

#define QG_INLINE inline __attribute__((always_inline))

QG_INLINE void load_lanes(const float* from, Lanes& to) {
  std::memcpy(&to, from, sizeof(Lanes));
}
QG_INLINE void store_lanes(const Lanes& from, float* to) {
  std::memcpy(to, &from, sizeof(Lanes));
}

// Sum of the sixteen in a fixed tree: halves are added until one is left.
QG_INLINE float sum_lanes(const Lanes& x) {
  float v[16];
  std::memcpy(v, &x, sizeof v);
  for (int half = 8; half > 0; half /= 2)
    for (int i = 0; i < half; ++i) v[i] += v[i + half];
  return v[0];
}

// exp(x) within 2 ulp for x in [-87, 88]; beyond, the value at the nearer end. exp(x) = 2^n exp(r), r = x - n ln 2,
// |r| <= 0.3466, by the Taylor series to r^7 (the next term is below 6e-9).
QG_INLINE float exp_lane(float x) {
  x = x < -87.0f ? -87.0f : x;
  x = x > 88.0f ? 88.0f : x;
  const float shifted = x * 1.44269504f + 12582912.0f;  // 1.5 * 2^23: the sum is rounded to an integer
  const float n = shifted - 12582912.0f;
  const float r = (x - n * 0.693359375f) + n * 2.12194440e-4f;  // ln 2 in two parts, the first with few bits
  float p = 1.0f / 5040;
  p = p * r + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  return p * std::bit_cast<float>((static_cast<int32_t>(n) + 127) << 23);
}

}  // namespace qg
