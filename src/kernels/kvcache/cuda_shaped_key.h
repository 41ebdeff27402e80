#pragma once
// A few keys' way into a shaped cache (docs/kv-cache-notes.md): their transform, a thread an element, and the feedback
// of rounding errors, a warp a key. Matrices and keys are in shared memory. Device code only.
#include "kernels/kvcache/cuda_shaped.h"

namespace qg::kvcache {

// y[i] = sum over j of T[j][i] z[j] in order, then divided by the scale: a thread has one i and kEach rows.
template <int kHeadDim, int kEach>
__device__ __forceinline__ void transform_keys(const __half* transform, const float (*key)[kHeadDim],
                                               float (*shaped)[kHeadDim], int element, float multiplier) {
  float sum[kEach];
#pragma unroll 8
  for (int j = 0; j < kHeadDim; j += 4) {
    float4 z[kEach];
#pragma unroll
    for (int r = 0; r < kEach; ++r) z[r] = *reinterpret_cast<const float4*>(&key[r][j]);
#pragma unroll
    for (int e = 0; e < 4; ++e) {
      const float line = __half2float(transform[(j + e) * kHeadDim + element]);
#pragma unroll
      for (int r = 0; r < kEach; ++r) {
        const float of_row = e == 0 ? z[r].x : e == 1 ? z[r].y : e == 2 ? z[r].z : z[r].w;
        sum[r] = j + e == 0 ? __fmul_rn(line, of_row) : __fmaf_rn(line, of_row, sum[r]);
      }
    }
  }
#pragma unroll
  for (int r = 0; r < kEach; ++r) shaped[r][element] = __fmul_rn(sum[r], multiplier);
}

// The lane's elements of a key, kCount from kCount * lane on, to what is to be stored there. Every lane follows the
// whole chain by itself (`x` is element j, `ahead` the two after it), so that no element waits for a shuffle: element
// j + 3 leaves its owner two steps before it is due, and misses just the errors that `ahead` takes into account. A
// step is about 25 instructions, and the chain in it 6: exponent, its floor, two to round, error, multiply-add.
template <int kHeadDim, KvFormat kFormat>
__device__ __forceinline__ void feed_errors_back(float (&t)[kHeadDim / 32], const __half* feedback, const float4* next,
                                                 int lane) {
  constexpr int kCount = kHeadDim / 32;
  struct Lines {  // of the elements of one owner
    float4 next[kCount];
    uint2 own[kCount];
  };
  const auto read = [&](int owner) {
    Lines lines;
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
      const __half* from = feedback + (kCount * owner + e) * kHeadDim + kCount * lane;
      lines.next[e] = next[kCount * owner + e];
      if constexpr (kCount == 4)
        lines.own[e] = *reinterpret_cast<const uint2*>(from);
      else
        lines.own[e].x = *reinterpret_cast<const uint32_t*>(from);
    }
    return lines;
  };
  const auto element = [&](int owner, int e) { return __shfl_sync(~0u, t[e % kCount], (owner + e / kCount) % 32); };
  float x = element(0, 0), ahead[2] = {element(0, 1), element(0, 2)}, mine[kCount] = {};
  Lines lines = read(0);
#pragma unroll 2
  for (int owner = 0; owner < 32; ++owner) {
    const Lines now = lines;
    lines = read(min(owner + 1, 31));
#pragma unroll
    for (int e = 0; e < kCount; ++e) {
      const float coming = element(owner, e + 3);
      if (lane == owner) mine[e] = x;
      const float error = __fsub_rn(x, rounded<kFormat>(x));
      x = __fmaf_rn(-error, now.next[e].x, ahead[0]);
      ahead[0] = __fmaf_rn(-error, now.next[e].y, ahead[1]);
      ahead[1] = __fmaf_rn(-error, now.next[e].z, coming);
      const uint32_t words[2] = {now.own[e].x, now.own[e].y};
#pragma unroll
      for (int i = 0; i < kCount; i += 2) {
        const float2 line = two_floats(words[i / 2]);
        t[i] = __fmaf_rn(-error, line.x, t[i]);
        t[i + 1] = __fmaf_rn(-error, line.y, t[i + 1]);
      }
    }
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) t[i] = mine[i];
}

// What an error of element j takes from the three after it: line j of what feed_errors_back reads as `next`.
template <int kHeadDim>
__device__ __forceinline__ float4 next_three(const __half* feedback, int j) {
  const __half* line = feedback + j * kHeadDim;
  const auto at = [&](int i) { return j + i < kHeadDim ? __half2float(line[j + i]) : 0.0f; };
  return {at(1), at(2), at(3), 0};
}

// The codes of what feed_errors_back left to a lane: kHeadDim / 32 bytes.
template <int kHeadDim, KvFormat kFormat>
__device__ __forceinline__ uint32_t key_codes(const float (&t)[kHeadDim / 32]) {
  if constexpr (kHeadDim == 128)
    return four_codes<kFormat>(t[0], t[1], t[2], t[3]);
  else
    return four_codes<kFormat>(t[0], t[1], 0, 0);
}
// The same bytes to where the lane's elements lie.
template <int kHeadDim>
__device__ __forceinline__ void store_key_codes(std::byte* to, uint32_t codes) {
  if constexpr (kHeadDim == 128)
    *reinterpret_cast<uint32_t*>(to) = codes;
  else
    *reinterpret_cast<uint16_t*>(to) = static_cast<uint16_t>(codes);
}

}  // namespace qg::kvcache
