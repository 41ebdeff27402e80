#pragma once
// Rounding with error feedback on the GPU (src/quantize/error_feedback.h is the definition), with the Cholesky factor
// of the Gram matrix itself instead of that of its inverse. With H = L^T L, L lower, in rounding order, what column t
// takes from the columns before it is sum over j < t of (w_j - q_j) * L_tj / L_tt: the same numbers, since the factor
// of the inverse is the inverse of L, transposed, and no inverse of a large matrix is made.
#include <cstdint>

#include "kernels/common/cuda.h"
#include "kernels/common/cuda_cublaslt.h"
#include "kernels/quantize/cuda_rounding.h"

namespace qg {

// G += x^T x, the lower triangle of [k, k] (row >= column; parts of the upper one are written too). x: half [rows, k].
// first: G is overwritten.
void add_gram(const CudaQueue& queue, CublasLt& blas, const __half* x, int64_t rows, int64_t k, bool first,
              float* gram);
// diagonal[i] = gram[i][i].
void gram_diagonal(const CudaQueue& queue, const float* gram, int64_t k, float* diagonal);

// The matrix to factorize, in rounding order: lower triangle of a[i][j] = gram[order[i]][order[j]] * f_i * f_j with
// f_i = factor[order[i]] (null: ones); a[i][i] = diagonal[i].
void arrange_gram(const CudaQueue& queue, const float* gram, const int32_t* order, const float* factor,
                  const float* diagonal, int64_t k, float* a);

inline constexpr int64_t kFactorBlock = 128;
int64_t factor_scratch_bytes(int64_t k);
// a [k, k], lower triangle: becomes L_tj / L_tt below the diagonal, in place. *failed (on the device) becomes 1 when a
// is not positive definite. The diagonal and what is above it are left undefined.
void factorize(const CudaQueue& queue, CublasLt& blas, int64_t k, float* a, void* scratch, int32_t* failed);

// Rounds w * up [n, k] (up null: ones) with error feedback. order [k]: column rounded i-th. factor: of factorize.
// working: float [n, k], scratch; gaps: float [n, kFeedbackBlock], scratch. codes [n, k], columns in their own order.
inline constexpr int64_t kFeedbackBlock = 64;
struct FeedbackParams {
  const float *w = nullptr, *up = nullptr, *factor = nullptr;
  const int32_t* order = nullptr;
  int64_t n = 0, k = 0;
  CodeScales scales;
  float *working = nullptr, *gaps = nullptr;
  uint8_t* codes = nullptr;
};
void round_with_feedback(const CudaQueue& queue, CublasLt& blas, const FeedbackParams& params);

}  // namespace qg
