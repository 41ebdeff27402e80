#include <algorithm>

#include "kernels/quantize/cuda_feedback_kernels.h"
#include "kernels/quantize/rounding.cuh"

namespace qg {
namespace {

constexpr int kThreads = 256;
constexpr int kFactorThreads = 1024;
constexpr int kSide = static_cast<int>(kFactorBlock), kPitch = kSide + 1;
constexpr int kColumns = static_cast<int>(kFeedbackBlock);
constexpr int kRowsOfBlock = 64;

unsigned blocks_of(int64_t count, int64_t each) {
  return static_cast<unsigned>((count + each - 1) / each);
}

__global__ void __launch_bounds__(kThreads) take_diagonal(const float* gram, int64_t k, float* diagonal) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (i < k) diagonal[i] = gram[i * k + i];
}

__global__ void __launch_bounds__(kThreads)
    arrange(const float* gram, const int32_t* order, const float* factor, const float* diagonal, int64_t k, float* a) {
  const int64_t i = blockIdx.x, from = order[i];
  const float f = factor ? factor[from] : 1.0f;
  for (int64_t j = threadIdx.x; j < i; j += kThreads) {
    const int64_t to = order[j];
    const float value = from > to ? gram[from * k + to] : gram[to * k + from];
    a[i * k + j] = factor ? __fmul_rn(value, __fmul_rn(f, factor[to])) : value;
  }
  if (threadIdx.x == 0) a[i * k + i] = diagonal[i];
}

// L^T L = block, from the last row up: row i is final when the rows below it have been taken off.
__global__ void __launch_bounds__(kFactorThreads)
    factor_one(int size, int64_t k, float* a, float* inverse, int32_t* failed) {
  extern __shared__ float l[];  // [kSide][kPitch]
  const int thread = static_cast<int>(threadIdx.x);
  for (int at = thread; at < size * kSide; at += kFactorThreads) {
    const int r = at / kSide, c = at % kSide;
    if (c <= r) l[r * kPitch + c] = a[r * k + c];
  }
  __syncthreads();
  for (int i = size - 1; i >= 0; --i) {
    const float pivot = l[i * kPitch + i];
    const bool usable = pivot > 0 && pivot < 3e38f;
    if (!usable && thread == 0) *failed = 1;
    const float root = usable ? sqrtf(pivot) : 1.0f;
    __syncthreads();
    if (thread <= i) l[i * kPitch + thread] = thread == i ? root : l[i * kPitch + thread] / root;
    __syncthreads();
    // 32 threads along a row's columns, 32 rows at a time.
    for (int r = thread / 32; r < i; r += kFactorThreads / 32) {
      const float left = l[i * kPitch + r];
      for (int c = thread % 32; c <= r; c += 32) l[r * kPitch + c] -= left * l[i * kPitch + c];
    }
    __syncthreads();
  }
  for (int at = thread; at < size * kSide; at += kFactorThreads) {
    const int r = at / kSide, c = at % kSide;
    if (c <= r) a[r * k + c] = l[r * kPitch + c];
  }
  // A column of the inverse a thread, by forward substitution. Element [r][thread] lies at l[thread][r + 1], above the
  // diagonal, where L has nothing.
  if (thread < size) {
    float* column = l + thread * kPitch + 1;
    for (int r = thread; r < size; ++r) {
      float x = r == thread ? 1.0f : 0.0f;
#pragma unroll 4
      for (int j = thread; j < r; ++j) x -= l[r * kPitch + j] * column[j];
      column[r] = x / l[r * kPitch + r];
    }
  }
  __syncthreads();
  for (int at = thread; at < kSide * kSide; at += kFactorThreads) {
    const int r = at / kSide, c = at % kSide;
    inverse[at] = r < size && c <= r ? l[c * kPitch + r + 1] : 0.0f;
  }
}

__global__ void __launch_bounds__(kThreads) scale_rows(int64_t k, float* a) {
  float* row = a + blockIdx.x * k;
  const float inverse = 1.0f / row[blockIdx.x];
  for (int64_t c = threadIdx.x; c < static_cast<int64_t>(blockIdx.x); c += kThreads) row[c] *= inverse;
}

__global__ void __launch_bounds__(kThreads)
    arrange_weight(const float* w, const float* up, const int32_t* order, int64_t k, float* out) {
  const int64_t row = blockIdx.x;
  for (int64_t i = threadIdx.x; i < k; i += kThreads) {
    const int64_t c = order[i];
    out[row * k + i] = up ? __fmul_rn(w[row * k + c], up[c]) : w[row * k + c];
  }
}

// A row a thread: its columns are rounded one after the other, in registers.
template <class Rounding>
__global__ void __launch_bounds__(kRowsOfBlock) round_columns(FeedbackParams p, Rounding rounding, int64_t begin) {
  __shared__ float take[kColumns][kColumns];  // [j][t]: what column t takes of the gap of column j
  __shared__ int32_t columns[kColumns];
  const int width = static_cast<int>(min(static_cast<int64_t>(kColumns), p.k - begin));
  for (int at = static_cast<int>(threadIdx.x); at < kColumns * kColumns; at += kRowsOfBlock) {
    const int t = at / kColumns, j = at % kColumns;
    take[j][t] = j < t && t < width ? p.factor[(begin + t) * p.k + begin + j] : 0.0f;
  }
  if (static_cast<int>(threadIdx.x) < kColumns)
    columns[threadIdx.x] = static_cast<int>(threadIdx.x) < width ? p.order[begin + threadIdx.x] : 0;
  __syncthreads();
  const int64_t row = blockIdx.x * static_cast<int64_t>(kRowsOfBlock) + threadIdx.x;
  if (row >= p.n) return;
  float value[kColumns], original[kColumns];
#pragma unroll
  for (int j = 0; j < kColumns; ++j) {
    value[j] = original[j] = 0;
    if (j < width) {
      const int64_t c = columns[j];
      value[j] = p.working[row * p.k + begin + j];
      original[j] = p.up ? __fmul_rn(p.w[row * p.k + c], p.up[c]) : p.w[row * p.k + c];
    }
  }
#pragma unroll
  for (int j = 0; j < kColumns; ++j) {
    float gap = 0;
    if (j < width) {
      const int64_t c = columns[j];
      uint8_t code;
      gap = original[j] - rounding(row, c, value[j], &code);
      p.codes[row * p.k + c] = code;
    }
    p.gaps[row * kColumns + j] = gap;
#pragma unroll
    for (int t = j + 1; t < kColumns; ++t) value[t] += gap * take[j][t];
  }
}

}  // namespace

void gram_diagonal(const CudaQueue& queue, const float* gram, int64_t k, float* diagonal) {
  launch(queue, take_diagonal, dim3(blocks_of(k, kThreads)), dim3(kThreads), 0, gram, k, diagonal);
}

void arrange_gram(const CudaQueue& queue, const float* gram, const int32_t* order, const float* factor,
                  const float* diagonal, int64_t k, float* a) {
  launch(queue, arrange, dim3(static_cast<unsigned>(k)), dim3(kThreads), 0, gram, order, factor, diagonal, k, a);
}

void factor_block(const CudaQueue& queue, int64_t size, int64_t k, float* a, float* inverse, int32_t* failed) {
  constexpr size_t kBytes = sizeof(float) * kSide * kPitch;
  static_assert(kBytes <= kLeastSharedBytes);
  QG_CUDA(cudaFuncSetAttribute(factor_one, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(kBytes)));
  launch(queue, factor_one, dim3(1), dim3(kFactorThreads), kBytes, static_cast<int>(size), k, a, inverse, failed);
}

void scale_factor_rows(const CudaQueue& queue, int64_t k, float* a) {
  launch(queue, scale_rows, dim3(static_cast<unsigned>(k)), dim3(kThreads), 0, k, a);
}

void arrange_columns(const CudaQueue& queue, const FeedbackParams& p) {
  launch(queue, arrange_weight, dim3(static_cast<unsigned>(p.n)), dim3(kThreads), 0, p.w, p.up, p.order, p.k,
         p.working);
}

void round_block(const CudaQueue& queue, const FeedbackParams& p, int64_t begin) {
  with_rounding(p.scales, [&](auto rounding) {
    launch(queue, round_columns<decltype(rounding)>, dim3(blocks_of(p.n, kRowsOfBlock)), dim3(kRowsOfBlock), 0, p,
           rounding, begin);
  });
}

}  // namespace qg
