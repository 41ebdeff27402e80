#pragma once
// Counter-based random numbers: value i of stream s is a function of (seed, s, i) alone, so that work can be split in
// any way, on any executor, with the same result.
#include <cmath>
#include <cstdint>

namespace qg {

// The output mix of SplitMix64 (Steele, Lea, Flood 2014).
constexpr uint64_t mix64(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

class Rng {
 public:
  explicit constexpr Rng(uint64_t seed, uint64_t stream = 0)
      : key_(mix64(seed + mix64(stream + 0x9e3779b97f4a7c15ull))) {}

  constexpr uint64_t bits(uint64_t i) const { return mix64(key_ + (i + 1) * 0x9e3779b97f4a7c15ull); }
  // Uniform in [0, 1), 53 bits.
  constexpr double uniform(uint64_t i) const { return static_cast<double>(bits(i) >> 11) * 0x1p-53; }
  // Standard normal (Box-Muller, one value per counter).
  double normal(uint64_t i) const {
    const double u = 1.0 - uniform(2 * i), v = uniform(2 * i + 1);
    return std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v);
  }
  // Uniform in [0, n), n > 0.
  uint64_t below(uint64_t i, uint64_t n) const {
    return static_cast<uint64_t>((static_cast<unsigned __int128>(bits(i)) * n) >> 64);
  }

  // The same generator as a sequence.
  uint64_t next_bits() { return bits(counter_++); }
  double next_uniform() { return uniform(counter_++); }
  uint64_t next_below(uint64_t n) { return below(counter_++, n); }

 private:
  uint64_t key_;
  uint64_t counter_ = 0;
};

}  // namespace qg
