// Rows of f16 to the codes that the next linear layer reads, for kernels that cannot make them while they store: a
// row's own scale needs all heads, which lie in different blocks.
#include <cfloat>

#include "kernels/attention/cuda_tile.h"

namespace qg::attention {
namespace {

constexpr int kThreads = 256;

__device__ float4 read_four(const __half* from) {
  const uint2 bits = *reinterpret_cast<const uint2*>(from);
  const float2 low = __half22float2(*reinterpret_cast<const __half2*>(&bits.x));
  const float2 high = __half22float2(*reinterpret_cast<const __half2*>(&bits.y));
  return {low.x, low.y, high.x, high.y};
}

__device__ float largest_of_block(float x) {
  __shared__ float warps[kThreads / 32];
  for (int distance = 16; distance > 0; distance /= 2) x = fmaxf(x, __shfl_xor_sync(0xffffffffu, x, distance));
  if (threadIdx.x % 32 == 0) warps[threadIdx.x / 32] = x;
  __syncthreads();
  for (int i = 0; i < kThreads / 32; ++i) x = fmaxf(x, warps[i]);
  return x;
}

__device__ float largest_of_four(const Output& out, int column, float4 x) {
  if (out.prequant != nullptr) {
    const float4 p = *reinterpret_cast<const float4*>(out.prequant + column);
    x = {x.x * p.x, x.y * p.y, x.z * p.z, x.w * p.w};
  }
  return fmaxf(fmaxf(fabsf(x.x), fabsf(x.y)), fmaxf(fabsf(x.z), fabsf(x.w)));
}

// Up to kChunks * kThreads * 4 values are asked for at once and stay in registers.
template <int kChunks>
__global__ void __launch_bounds__(kThreads)
    quantize_kernel(int64_t first, const __half* __restrict__ from, Output out, float* row_scales) {
  let_next_start();
  const int64_t row = first + blockIdx.x;
  from += row * out.width;
  const auto column_of = [](int chunk) { return 4 * (chunk * kThreads + static_cast<int>(threadIdx.x)); };
  wait_for_previous();
  float4 x[kChunks];
#pragma unroll
  for (int c = 0; c < kChunks; ++c)
    x[c] = column_of(c) < out.width ? read_four(from + column_of(c)) : make_float4(0, 0, 0, 0);
  if (row_scales != nullptr) {
    float largest = 0;
#pragma unroll
    for (int c = 0; c < kChunks; ++c)
      if (column_of(c) < out.width) largest = fmaxf(largest, largest_of_four(out, column_of(c), x[c]));
    for (int i = column_of(kChunks); i < out.width; i += 4 * kThreads)
      largest = fmaxf(largest, largest_of_four(out, i, read_four(from + i)));
    largest = largest_of_block(largest);
    const float scale = fmaxf(__fdiv_rn(largest, out.form == ActivationForm::fp8 ? 448.0f : 127.0f), FLT_MIN);
    if (threadIdx.x == 0) row_scales[row] = scale;
    out.multiplier = __fdiv_rn(1.0f, scale);
  }
#pragma unroll
  for (int c = 0; c < kChunks; ++c)
    if (column_of(c) < out.width) store_result(out, row, column_of(c), x[c]);
  for (int i = column_of(kChunks); i < out.width; i += 4 * kThreads) store_result(out, row, i, read_four(from + i));
}

}  // namespace

void launch_quantize(const CudaQueue& queue, int64_t first, int64_t rows, const __half* from, const Output& out,
                     float* row_scales) {
  launch(queue, quantize_kernel<4>, dim3(static_cast<unsigned>(rows)), dim3(kThreads), 0, first, from, out, row_scales);
}

}  // namespace qg::attention
