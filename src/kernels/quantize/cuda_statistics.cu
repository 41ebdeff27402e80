#include "kernels/quantize/cuda_statistics.h"

#include <cuda_bf16.h>

#include <algorithm>

#include "kernels/pointwise/silu.cuh"

namespace qg {
namespace {

constexpr int kThreads = 128;
constexpr int64_t kSlices = 64;  // of the rows, summed apart and then in order: the result is the same in every run

unsigned blocks_of(int64_t count, int64_t each) {
  return static_cast<unsigned>((count + each - 1) / each);
}

// partial [2][kSlices][k]: sums, then maxima.
__global__ void __launch_bounds__(kThreads) fold_slice(const __half2* x, int64_t rows, int64_t pairs, float2* partial) {
  const int64_t column = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x, slice = blockIdx.y;
  if (column >= pairs) return;
  const int64_t begin = rows * slice / kSlices, end = rows * (slice + 1) / kSlices;
  float2 sum = {0, 0}, largest = {0, 0};
  for (int64_t r = begin; r < end; ++r) {
    const float2 v = __half22float2(__habs2(x[r * pairs + column]));
    sum.x += v.x;
    sum.y += v.y;
    largest.x = fmaxf(largest.x, v.x);
    largest.y = fmaxf(largest.y, v.y);
  }
  partial[slice * pairs + column] = sum;
  partial[(kSlices + slice) * pairs + column] = largest;
}

__global__ void __launch_bounds__(kThreads) add_slices(const float* partial, int64_t k, float* absmax, double* sums) {
  const int64_t column = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (column >= k) return;
  double sum = sums[column];
  float largest = absmax[column];
  for (int64_t slice = 0; slice < kSlices; ++slice) {
    sum += static_cast<double>(partial[slice * k + column]);
    largest = fmaxf(largest, partial[(kSlices + slice) * k + column]);
  }
  sums[column] = sum;
  absmax[column] = largest;
}

__global__ void __launch_bounds__(kThreads)
    copy_rows(const __half2* x, const int32_t* rows, int64_t first_row, int64_t pairs, __half2* out) {
  const int64_t from = rows[blockIdx.x] - first_row;
  for (int64_t c = threadIdx.x; c < pairs; c += kThreads) out[blockIdx.x * pairs + c] = x[from * pairs + c];
}

__global__ void __launch_bounds__(kThreads) sum_squares(const __half* x, int64_t rows, int64_t k, float* moments) {
  const int64_t column = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (column >= k) return;
  float sum = 0;
  for (int64_t r = 0; r < rows; ++r) {
    const float v = __half2float(x[r * k + column]);
    sum = __fadd_rn(sum, __fmul_rn(v, v));
  }
  moments[column] = sum;
}

__device__ float as_float(float v) {
  return v;
}
__device__ float as_float(__half v) {
  return __half2float(v);
}
__device__ float as_float(__nv_bfloat16 v) {
  return __bfloat162float(v);
}

template <class T>
__global__ void __launch_bounds__(kThreads) widen_each(const T* x, int64_t count, float* out) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; i < count; i += stride)
    out[i] = as_float(x[i]);
}

template <class T>
__global__ void __launch_bounds__(kThreads) narrow_each(const T* x, int64_t count, __half* out, int32_t* overflow) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  bool beyond = false;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; i < count; i += stride) {
    const float v = as_float(x[i]);
    beyond |= !(fabsf(v) <= 65504.0f);
    out[i] = __float2half_rn(v);
  }
  if (beyond) *overflow = 1;
}

__global__ void __launch_bounds__(kThreads) add_each(const __half2* delta, int64_t pairs, float2* residual) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (i >= pairs) return;
  const float2 d = __half22float2(delta[i]);
  float2 r = residual[i];
  r.x += d.x;
  r.y += d.y;
  residual[i] = r;
}

__global__ void __launch_bounds__(kThreads) gate_each(const __half2* gate_up, int64_t pairs, __half2* out) {
  const int64_t column = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x, row = blockIdx.y;
  if (column >= pairs) return;
  const float2 gate = __half22float2(gate_up[row * 2 * pairs + column]);
  const float2 up = __half22float2(gate_up[(row * 2 + 1) * pairs + column]);
  out[row * pairs + column] = __floats2half2_rn(silu_times(gate.x, up.x), silu_times(gate.y, up.y));
}

constexpr unsigned kWideGrid = 4096;

}  // namespace

int64_t column_statistics_scratch_bytes(int64_t k) {
  return 2 * kSlices * k * static_cast<int64_t>(sizeof(float));
}

void add_column_statistics(const CudaQueue& queue, const __half* x, int64_t rows, int64_t k, float* absmax,
                           double* abs_sum, void* scratch) {
  launch(queue, fold_slice, dim3(blocks_of(k / 2, kThreads), kSlices), dim3(kThreads), 0,
         reinterpret_cast<const __half2*>(x), rows, k / 2, static_cast<float2*>(scratch));
  launch(queue, add_slices, dim3(blocks_of(k, kThreads)), dim3(kThreads), 0, static_cast<const float*>(scratch), k,
         absmax, abs_sum);
}

void gather_rows(const CudaQueue& queue, const __half* x, const int32_t* rows, int64_t count, int64_t first_row,
                 int64_t k, __half* out) {
  if (count == 0) return;
  launch(queue, copy_rows, dim3(static_cast<unsigned>(count)), dim3(kThreads), 0, reinterpret_cast<const __half2*>(x),
         rows, first_row, k / 2, reinterpret_cast<__half2*>(out));
}

void column_moments(const CudaQueue& queue, const __half* x, int64_t rows, int64_t k, float* moments) {
  launch(queue, sum_squares, dim3(blocks_of(k, kThreads)), dim3(kThreads), 0, x, rows, k, moments);
}

void widen(const CudaQueue& queue, const void* x, DType type, int64_t count, float* out) {
  const dim3 grid(std::min(kWideGrid, blocks_of(count, kThreads)));
  if (type == DType::f16)
    launch(queue, widen_each<__half>, grid, dim3(kThreads), 0, static_cast<const __half*>(x), count, out);
  else if (type == DType::bf16)
    launch(queue, widen_each<__nv_bfloat16>, grid, dim3(kThreads), 0, static_cast<const __nv_bfloat16*>(x), count, out);
  else
    launch(queue, widen_each<float>, grid, dim3(kThreads), 0, static_cast<const float*>(x), count, out);
}

void narrow(const CudaQueue& queue, const void* x, DType type, int64_t count, __half* out, int32_t* overflow) {
  const dim3 grid(std::min(kWideGrid, blocks_of(count, kThreads)));
  if (type == DType::bf16)
    launch(queue, narrow_each<__nv_bfloat16>, grid, dim3(kThreads), 0, static_cast<const __nv_bfloat16*>(x), count, out,
           overflow);
  else
    launch(queue, narrow_each<float>, grid, dim3(kThreads), 0, static_cast<const float*>(x), count, out, overflow);
}

void add_half(const CudaQueue& queue, const __half* delta, int64_t count, float* residual) {
  launch(queue, add_each, dim3(blocks_of(count / 2, kThreads)), dim3(kThreads), 0,
         reinterpret_cast<const __half2*>(delta), count / 2, reinterpret_cast<float2*>(residual));
}

void silu_mul_joined(const CudaQueue& queue, const __half* gate_up, int64_t rows, int64_t width, __half* out) {
  launch(queue, gate_each, dim3(blocks_of(width / 2, kThreads), static_cast<unsigned>(rows)), dim3(kThreads), 0,
         reinterpret_cast<const __half2*>(gate_up), width / 2, reinterpret_cast<__half2*>(out));
}

}  // namespace qg
