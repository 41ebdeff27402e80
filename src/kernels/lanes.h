#pragma once
// Inner functions that the compiler can vectorize, inlined into versions for several instruction sets.
#include <bit>
#include <cstdint>

namespace qg {

#define QG_INLINE inline __attribute__((always_inline))

// Sum in a fixed tree: halves are added until one is left.
QG_INLINE float sum_of_16(const float (&values)[16]) {
  float v[8];
  for (int i = 0; i < 8; ++i) v[i] = values[i] + values[i + 8];
  for (int i = 0; i < 4; ++i) v[i] += v[i + 4];
  for (int i = 0; i < 2; ++i) v[i] += v[i + 2];
  return v[0] + v[1];
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
