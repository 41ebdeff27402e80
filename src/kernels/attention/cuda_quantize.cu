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

__global__ void __launch_bounds__(kThreads)
    quantize_kernel(int64_t first, const __half* __restrict__ from, Output out, float* row_scales) {
  let_next_start();
  const int64_t row = first + blockIdx.x;
  from += row * out.width;
  wait_for_previous();
  if (row_scales != nullptr) {
    float largest = 0;
    for (int i = 4 * static_cast<int>(threadIdx.x); i < out.width; i += 4 * kThreads) {
      float4 x = read_four(from + i);
      if (out.prequant != nullptr) {
        const float4 p = *reinterpret_cast<const float4*>(out.prequant + i);
        x = {x.x * p.x, x.y * p.y, x.z * p.z, x.w * p.w};
      }
      largest = fmaxf(largest, fmaxf(fmaxf(fabsf(x.x), fabsf(x.y)), fmaxf(fabsf(x.z), fabsf(x.w))));
    }
    largest = largest_of_block(largest);
    const float scale = fmaxf(__fdiv_rn(largest, out.form == ActivationForm::fp8 ? 448.0f : 127.0f), FLT_MIN);
    if (threadIdx.x == 0) row_scales[row] = scale;
    out.multiplier = __fdiv_rn(1.0f, scale);
  }
  for (int i = 4 * static_cast<int>(threadIdx.x); i < out.width; i += 4 * kThreads)
    store_result(out, row, i, read_four(from + i));
}

}  // namespace

void launch_quantize(const CudaQueue& queue, int64_t first, int64_t rows, const __half* from, const Output& out,
                     float* row_scales) {
  launch(queue, quantize_kernel, dim3(static_cast<unsigned>(rows)), dim3(kThreads), 0, first, from, out, row_scales);
}

}  // namespace qg::attention
