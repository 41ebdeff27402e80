#pragma once
// Sums and maxima over all threads of a block. kThreads is a multiple of 32, at most 1024; every thread gets the
// result.
namespace qg {

template <int kThreads, class Combine>
__device__ __forceinline__ float reduce_block(float value, Combine combine, float identity) {
  __shared__ float partial[32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value = combine(value, __shfl_xor_sync(~0u, value, offset));
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  __syncthreads();  // `partial` may still be read by an earlier reduction
  if (lane == 0) partial[warp] = value;
  __syncthreads();
  value = lane < kThreads / 32 ? partial[lane] : identity;
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value = combine(value, __shfl_xor_sync(~0u, value, offset));
  return value;
}

template <int kThreads>
__device__ __forceinline__ float block_sum(float value) {
  return reduce_block<kThreads>(
      value, [](float a, float b) { return a + b; }, 0.0f);
}

template <int kThreads>
__device__ __forceinline__ float block_max(float value) {
  return reduce_block<kThreads>(
      value, [](float a, float b) { return fmaxf(a, b); }, 0.0f);
}

}  // namespace qg
