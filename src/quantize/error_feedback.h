#pragma once
// Rounding with error feedback: columns are rounded one after the other and the error of each is made up for by the
// columns still to come, weighted by how the inputs are correlated. After Frantar et al., "GPTQ" (2022), which solves
// Hassibi and Stork's optimal brain surgeon for all rows of a matrix with one factorization.
#include <cblas.h>

#include <algorithm>
#include <cstdint>
#include <vector>

#include "core/parallel.h"

namespace qg {

// What error feedback needs of the inputs of a linear layer: U, the upper Cholesky factor of the inverse of the damped
// Gram matrix, in the order in which the columns are rounded.
class FeedbackFactor {
 public:
  // gram: [k, k] sum of x x^T, destroyed. damp: share of the mean diagonal that is added to it. Columns are taken in
  // descending order of their diagonal when `by_importance`, so that those that matter most are rounded while there is
  // most room to make up for them. Throws Error when the matrix cannot be factorized at any reasonable damping.
  // A matrix of up to widest_in_double columns is factorized in double (512 MB at 8,192); wider ones in float, in
  // place, so that k * k floats are all that it takes.
  FeedbackFactor(std::vector<float> gram, int64_t k, double damp, bool by_importance, int64_t widest_in_double = 8192);

  int64_t k() const { return k_; }
  const float* row(int64_t i) const { return u_.data() + i * k_; }  // U[i, :], zero left of the diagonal
  const std::vector<int64_t>& order() const { return order_; }      // order()[i] = column rounded i-th

 private:
  int64_t k_;
  std::vector<float> u_;
  std::vector<int64_t> order_;
};

// Rounds weight [n, k] (destroyed). round(row, column, value) stores the code of one element and returns the value that
// it stands for.
template <class Round>
void round_with_feedback(std::vector<float>& weight, int64_t n, const FeedbackFactor& factor, const Round& round) {
  constexpr int64_t kBlock = 64;  // columns whose errors are spread at once by a matrix product
  const int64_t k = factor.k();
  const std::vector<int64_t>& order = factor.order();
  parallel_for(n, 16, [&](int64_t begin, int64_t end) {  // into rounding order
    std::vector<float> moved(static_cast<size_t>(k));
    for (int64_t r = begin; r < end; ++r) {
      float* row = weight.data() + r * k;
      for (int64_t i = 0; i < k; ++i) moved[static_cast<size_t>(i)] = row[order[static_cast<size_t>(i)]];
      std::copy(moved.begin(), moved.end(), row);
    }
  });
  std::vector<float> errors(static_cast<size_t>(n * kBlock));
  for (int64_t b = 0; b < k; b += kBlock) {
    const int64_t e = std::min(k, b + kBlock), width = e - b;
    parallel_for(n, 16, [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        float* row = weight.data() + r * k;
        float* error = errors.data() + r * width;
        for (int64_t j = b; j < e; ++j) {
          const float* u = factor.row(j);
          const float kept = round(r, order[static_cast<size_t>(j)], row[j]);
          const float scaled = (row[j] - kept) / u[j];
          error[j - b] = scaled;
          for (int64_t t = j + 1; t < e; ++t) row[t] -= scaled * u[t];
        }
      }
    });
    if (e < k)
      cblas_sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, static_cast<int>(n), static_cast<int>(k - e),
                  static_cast<int>(width), -1.0f, errors.data(), static_cast<int>(width), factor.row(b) + e,
                  static_cast<int>(k), 1.0f, weight.data() + e, static_cast<int>(k));
  }
}

}  // namespace qg
