#pragma once
// Of the kernel of cuda_wide.h: products of the stages of a run.
#include "kernels/linear/wide_shape.cuh"

namespace qg::device {

// The A fragments of 64 x 64 out of one lane's nibbles (Int4Layout), times the group's scale: rounded once.
template <WideFormat kFormat>
__device__ __forceinline__ void expand_chunk(const uint4& nibbles, const uint32_t* scale, uint32_t (&a)[16]) {
  const uint32_t words[2][2] = {{nibbles.x, nibbles.z}, {nibbles.y, nibbles.w}};  // [row g, g + 8][half of k]
#pragma unroll
  for (int h = 0; h < 2; ++h)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      __half2 low = __half2half2(__ushort_as_half(0xe408));   // -(1024 + 8)
      __half2 high = __half2half2(__ushort_as_half(0xd480));  // -(64 + 8)
      if constexpr (kFormat == WideFormat::w4_zeros) {
        low = __hneg2(r == 0 ? __low2half2(halves(scale[1])) : __high2half2(halves(scale[1])));
        high = __hadd2(low, __half2half2(__ushort_as_half(0x6380)));  // + 960
      }
      const __half2 by = r == 0 ? __low2half2(halves(scale[0])) : __high2half2(halves(scale[0]));
      uint32_t pair[4];
      expand_nibbles(words[r][h], low, high, pair);
#pragma unroll
      for (int i = 0; i < 4; ++i) a[(2 * h + i / 2) * 4 + i % 2 * 2 + r] = bits(__hmul2(halves(pair[i]), by));
    }
}

__device__ __forceinline__ uint4 load_shared_16(uint32_t from) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(from)
               : "memory");
  return v;
}
__device__ __forceinline__ uint32_t load_shared_4(uint32_t from) {
  uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(from) : "memory");
  return v;
}

// A warp has read a stage: said to every block that writes into it.
template <int kCluster>
__device__ __forceinline__ void release_stage(uint32_t empty_barrier) {
  const int lane = threadIdx.x % 32;
  if constexpr (kCluster == 1) {
    if (lane == 0) barrier_arrive(empty_barrier);
  } else {
    if (lane < kCluster) barrier_arrive_at(empty_barrier, static_cast<uint32_t>(lane));
  }
}

// The sums of a run of steps, with the ring advanced behind it.
template <WideFormat kFormat, class S>
__device__ __forceinline__ void multiply_run(const WideArguments& a, WideRing<S>& ring,
                                             const WideWalk<S::kTile.cluster>& walk,
                                             typename S::Acc (&acc)[S::kTile.halves][S::kTile.tokens / 2]) {
  using Traits = WideTraits<kFormat>;
  constexpr int kHalves = S::kTile.halves;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = warp / 4;
  uint32_t release = 0;  // the barrier of the stage before, once its products have ended
  int keep = 0;
  [[maybe_unused]] uint32_t fragments[2][16] = {};  // one is read by the tensor cores while the other is made
  for (int step = walk.begin; step < walk.end; ++step, ring.advance()) {
    barrier_wait(ring.full_barrier(), ring.phase);
    if constexpr (Traits::kInt4) {
      const uint32_t nibbles = ring.weights() + (group * kHalves * 4 + warp % 4) * S::kTileBytes + lane * 16;
      const uint32_t scales = ring.weights() + S::kRowTiles * S::kTileBytes +
                              (group * kHalves * 4 + warp % 4) * S::kScaleBytes + lane / 4 * (Traits::kScaleWords * 4);
      const uint32_t second = a.group_shift == 0 ? Traits::kScaleWords * 32 : 0;  // groups of 64: the next one's scales
      constexpr int kUnits = S::kUnits;
      uint4 codes[kUnits];  // all of the stage's at once: their latency shows once
      uint32_t scale[kUnits][Traits::kScaleWords];
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        const int c = u / kHalves, h = u % kHalves;
        codes[u] = load_shared_16(nibbles + h * 4 * S::kTileBytes + c * 512);
#pragma unroll
        for (int i = 0; i < Traits::kScaleWords; ++i)
          scale[u][i] = load_shared_4(scales + h * 4 * S::kScaleBytes + (c == 1 ? second : 0) + i * 4);
      }
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        const int c = u / kHalves, h = u % kHalves;
        uint32_t(&mine)[16] = fragments[u % 2];
        expand_chunk<kFormat>(codes[u], scale[u], mine);
        const uint64_t x = operand(ring.x() + c * S::kXBox);
        pin(acc[h]);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < 4; ++i) wgmma_f16(acc[h], mine + 4 * i, x + 2 * i, c == 0 && i == 0 ? keep : 1);
        wgmma_commit();
        pin(acc[h]);
        wgmma_wait<1>();
        hold(fragments[(u + 1) % 2]);
        if (u == 0 && release != 0) release_stage<S::kTile.cluster>(release);
      }
    } else {
      const uint64_t x = operand(ring.x()), w = operand(ring.weights() + group * kHalves * 8192);
#pragma unroll
      for (int h = 0; h < kHalves; ++h) pin(acc[h]);
      wgmma_fence();
#pragma unroll
      for (int h = 0; h < kHalves; ++h)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if constexpr (kFormat == WideFormat::int8) {
            wgmma_s8(acc[h], w + h * 512 + 2 * i, x + 2 * i, i == 0 ? keep : 1);
          } else if constexpr (kFormat == WideFormat::f16) {
            wgmma_f16(acc[h], w + h * 512 + 2 * i, x + 2 * i, i == 0 ? keep : 1);
          } else {
            wgmma_e4m3(acc[h], w + h * 512 + 2 * i, x + 2 * i, i == 0 ? keep : 1);
          }
        }
      wgmma_commit();
#pragma unroll
      for (int h = 0; h < kHalves; ++h) pin(acc[h]);
      wgmma_wait<1>();
      if (release != 0) release_stage<S::kTile.cluster>(release);
    }
    keep = 1;
    release = ring.empty_barrier();
  }
  wgmma_wait<0>();
#pragma unroll
  for (int h = 0; h < kHalves; ++h) pin(acc[h]);
  release_stage<S::kTile.cluster>(release);
}

}  // namespace qg::device
