#pragma once
// Sums over keys or queries after RoPE, as they would be had the text stood elsewhere in the context. Why the shaping
// of keys needs it: docs/kv-cache-notes.md.
#include <complex>
#include <cstdint>
#include <vector>

#include "quantize/small_matrix.h"

namespace qg {

// RoPE turns elements i and i + n/2 of a head by frequency[i] a position; moving a text by some positions turns its
// keys and queries alike, and leaves scores as they are. The mean here is over moves by 0 to span - 1 positions, and
// over the spans 1, 2, 4, ... up to the context: each octave of positions counts the same.
class PositionMean {
 public:
  // frequencies [head_dim / 2]: radians a position. context: the model's longest, in tokens; below 2 nothing is moved.
  PositionMean(const std::vector<double>& frequencies, int64_t context);

  std::vector<double> of_sum(const std::vector<double>& x) const;  // x [head_dim]: sum of vectors
  SmallMatrix of_moment(const SmallMatrix& a) const;               // a [head_dim, head_dim], symmetric: sum of x x^T

 private:
  std::complex<double>& at(std::vector<std::complex<double>>& table, int64_t i, int64_t j) const;
  std::complex<double> at(const std::vector<std::complex<double>>& table, int64_t i, int64_t j) const;

  int64_t half_;
  std::vector<std::complex<double>> single_;            // mean of exp(i f move), [half]
  std::vector<std::complex<double>> difference_, sum_;  // of exp(i (f_r - f_c) move), exp(i (f_r + f_c) move)
};

}  // namespace qg
