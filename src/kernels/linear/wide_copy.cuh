#pragma once
// Of the kernel of cuda_wide.h: the warp that keeps the ring full.
#include "kernels/linear/wide_shape.cuh"

namespace qg::device {

// The copies of one stage after the other, by one lane of the last warp.
template <WideFormat kFormat, class S>
struct WideProducer {
  using Traits = WideTraits<kFormat>;
  const WideArguments& a;
  WideRing<S> ring;
  WideWalk<S::kTile.cluster> walk;
  int step = 0;
  bool more = false;

  __device__ WideProducer(const WideArguments& arguments, const WideRing<S>& at)
      : a(arguments), ring(at), walk(arguments) {
    more = walk.next(a);
    step = more ? walk.begin : 0;
  }
  __device__ void advance() {
    ring.advance();
    if (++step < walk.end) return;
    more = walk.next(a);
    step = walk.begin;
  }
  // Fills the ring: weights at once, x when it may be read; then each stage that all warps have left.
  __device__ void run() {
    prefetch_map(&a.x);
    prefetch_map(&a.weight);
    if constexpr (Traits::kInt4) prefetch_map(&a.scales);
    WideProducer behind = *this;
    for (int i = 0; i < S::kTile.stages && more; ++i, advance()) weights();
    wait_for_previous();
    if constexpr (S::kTile.cluster > 1) cluster_wait();  // the others' barriers are ready for what is sent there
    for (int i = 0; i < S::kTile.stages && behind.more; ++i, behind.advance()) behind.x();
    for (; more; advance()) {
      barrier_wait(ring.empty_barrier(), ring.phase ^ 1);
      weights();
      x();
    }
    if (threadIdx.x % 32 == 0) ask_ahead(a.ahead, static_cast<int>(blockIdx.x));
  }

 private:
  __device__ void weights() const {
    if (threadIdx.x % 32 != 0) return;
    const uint64_t hint = a.keep_weights ? kEvictNormal : kEvictFirst;
    const uint32_t barrier = ring.full_barrier();
    barrier_expect(barrier, S::kXBytes + S::kWeightBytes);
    if constexpr (Traits::kInt4) {
      const int chunk = step * S::kChunks, row_tile = walk.feature * S::kRowTiles;
      copy_box(ring.weights(), &a.weight, chunk * 64, row_tile, barrier, hint);
      copy_box(ring.weights() + S::kRowTiles * S::kTileBytes, &a.scales,
               (chunk >> a.group_shift) * Traits::kScaleWords * 4, row_tile, barrier, hint);
    } else {
      copy_box(ring.weights(), &a.weight, step * S::kStep, walk.feature * S::kFeatures, barrier, hint);
    }
  }
  // A team reads the same x: each of its blocks copies a part of the rows to all.
  __device__ void x() const {
    if (threadIdx.x % 32 != 0) return;
    constexpr int kRows = S::kTile.tokens / S::kTile.cluster;
    const int first = walk.rank * kRows, row = walk.token * S::kTile.tokens + first;
#pragma unroll
    for (int i = 0; i < S::kXBoxes; ++i) {
      const uint32_t to = ring.x() + i * S::kXBox + first * 128;
      const int column = step * S::kStep + i * (S::kStep / S::kXBoxes);
      if constexpr (S::kTile.cluster > 1)
        copy_box_to((1 << S::kTile.cluster) - 1, to, &a.x, column, row, ring.full_barrier(), kEvictNormal);
      else
        copy_box(to, &a.x, column, row, ring.full_barrier(), kEvictNormal);
    }
  }
};

}  // namespace qg::device
