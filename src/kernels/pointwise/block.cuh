#pragma once
// Sums and maxima over all threads of a block. kThreads is a multiple of 32, at most 1024; every thread gets the
// result. A kernel calls each of them at most once: the memory that they share is not guarded against a second call.
namespace qg {

template <int kThreads, class Combine>
__device__ __forceinline__ float reduce_block(float value, Combine combine, float identity) {
  __shared__ float partial[32];
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) value = combine(value, __shfl_xor_sync(~0u, value, offset));
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
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

// Both at once, for about the time of one.
template <int kThreads>
__device__ __forceinline__ void block_sum_and_max(float& sum, float& largest) {
  __shared__ float2 partial[32];
  const auto over_warp = [&] {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) {
      sum += __shfl_xor_sync(~0u, sum, offset);
      largest = fmaxf(largest, __shfl_xor_sync(~0u, largest, offset));
    }
  };
  over_warp();
  const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
  if (lane == 0) partial[warp] = make_float2(sum, largest);
  __syncthreads();
  const float2 mine = lane < kThreads / 32 ? partial[lane] : make_float2(0, 0);
  sum = mine.x, largest = mine.y;
  over_warp();
}

}  // namespace qg
