#pragma once
// What the kernel tests compare with: definitions in double precision that share no code with src/.
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

namespace qg::test {

inline std::vector<float> random_floats(int64_t count, unsigned seed, float scale = 1.0f) {
  std::mt19937 generator(seed);
  std::normal_distribution<float> normal(0.0f, scale);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = normal(generator);
  return values;
}

inline std::vector<int> random_ints(int64_t count, unsigned seed, int low, int high) {
  std::mt19937 generator(seed);
  std::uniform_int_distribution<int> uniform(low, high);
  std::vector<int> values(static_cast<size_t>(count));
  for (int& v : values) v = uniform(generator);
  return values;
}

// Outputs start poisoned: what a kernel forgets to write shows.
inline std::vector<float> poisoned(int64_t count) {
  return std::vector<float>(static_cast<size_t>(count), std::numeric_limits<float>::quiet_NaN());
}

// Value of an e4m3 code (no NaN codes).
inline double e4m3_value(int code) {
  const int exponent = (code >> 3) & 15, mantissa = code & 7;
  const double magnitude = exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
  return code & 0x80 ? -magnitude : magnitude;
}

// The e4m3 value nearest to x, ties to the even code, saturating.
inline double round_e4m3(double x) {
  int best = 0;
  for (int code = 1; code <= 0x7e; ++code) {
    const double closer = std::fabs(std::fabs(x) - e4m3_value(code)) - std::fabs(std::fabs(x) - e4m3_value(best));
    if (closer < 0 || (closer == 0 && code % 2 == 0)) best = code;
  }
  return std::copysign(e4m3_value(best), x);
}

// The nearest integer within +-127, ties to even.
inline double round_int8(double x) {
  return std::clamp(std::nearbyint(x), -127.0, 127.0);
}

inline double amax(const float* x, int64_t count) {
  double largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(static_cast<double>(x[i])));
  return largest;
}

}  // namespace qg::test
