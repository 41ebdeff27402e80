#pragma once
// Pieces of the two kernels for shaped keys (docs/kv-cache-notes.md). Device code only.
#include "kernels/attention/cuda_tile.h"
#include "kernels/kvcache/cuda_rotate.h"

namespace qg::kvcache {

// x rounded to the nearest code's value, for the chain of feedback, where every instruction counts: the code itself is
// made elsewhere. No clamping on the way: beyond the largest code the rounding's last step is skipped.
template <KvFormat kFormat>
__device__ __forceinline__ float rounded(float x) {
  if constexpr (kFormat == KvFormat::fp8) {
    // Adding 1.5 * 2^20 times the power of two below |x| rounds to three bits behind the first, ties to even; below the
    // smallest normal number, 2^-6, the step stays that of 2^-6.
    const float power = fmaxf(__uint_as_float(__float_as_uint(x) & 0x7f800000u), 0x1p-6f);
    const float sum = __fmaf_rn(power, 1572864.0f, x);  // the product is exact
    float value = copysignf(448.0f, x);
    asm("{ .reg .pred inside; setp.lt.f32 inside, %1, 0f43E00000; @inside fma.rn.f32 %0, %2, 0fC9C00000, %3; }"
        : "+f"(value)
        : "f"(fabsf(x)), "f"(power), "f"(sum));
    return value;
  } else {
    const float sum = __fadd_rn(x, 12582912.0f);  // 1.5 * 2^23
    float value = copysignf(127.0f, x);
    asm("{ .reg .pred inside; setp.lt.f32 inside, %1, 0f42FE0000; @inside add.rn.f32 %0, %2, 0fCB400000; }"
        : "+f"(value)
        : "f"(fabsf(x)), "f"(sum));
    return value;
  }
}

// One tile of 16 queries through a KV head's matrix: columns 16 `column_tile` and up. `matrix` in shared memory, rows
// swizzled; a: the queries' fragments.
template <int kHeadDim>
__device__ __forceinline__ void transform_queries(const uint32_t (&a)[kHeadDim / 16][4], uint32_t matrix,
                                                  int column_tile, int lane, float (&c)[2][4]) {
#pragma unroll
  for (int k = 0; k < kHeadDim / 16; ++k) {
    uint32_t b[4];
    attention::load_matrices_transposed(
        b, matrix + attention::swizzled<2 * kHeadDim>(16 * k + lane % 16, 2 * column_tile + lane / 16));
    attention::multiply_add(c[0], a[k], b[0], b[1]);
    attention::multiply_add(c[1], a[k], b[2], b[3]);
  }
}

// What a lane has of two of the tile's rows, lane / 4 (half 0) and lane / 4 + 8: to points to the row's column 0.
__device__ __forceinline__ void store_queries(__half* to, const float (&c)[2][4], int half, int column_tile, int lane) {
  auto* words = reinterpret_cast<uint32_t*>(to + 16 * column_tile + lane % 4 * 2);
  words[0] = two_halves(c[0][2 * half], c[0][2 * half + 1]);
  words[4] = two_halves(c[1][2 * half], c[1][2 * half + 1]);
}

// A matrix [kHeadDim, kHeadDim] on its way to shared memory by kThreads threads.
template <int kHeadDim, bool kSwizzled, int kThreads>
__device__ __forceinline__ void copy_matrix(__half* to, const __half* from, int thread) {
  constexpr int kChunks = kHeadDim / 8;
  const uint32_t base = attention::shared_address(to);
#pragma unroll
  for (int n = 0; n < kHeadDim * kChunks / kThreads; ++n) {
    const int i = thread + n * kThreads;
    const uint32_t offset = kSwizzled ? attention::swizzled<2 * kHeadDim>(i / kChunks, i % kChunks) : 16 * i;
    attention::copy_16_bytes(base + offset, from + 8 * i, true);
  }
  attention::commit_copies();
}

// A barrier of some warps of the block.
__device__ __forceinline__ void wait_for_threads(int barrier, int threads) {
  __syncwarp();  // the barrier is for whole warps
  asm volatile("bar.sync %0, %1;" ::"r"(barrier), "r"(threads) : "memory");
}

}  // namespace qg::kvcache
