#pragma once
// The kernel of cuda_wide.h.
#include "kernels/linear/wide_copy.cuh"
#include "kernels/linear/wide_multiply.cuh"
#include "kernels/linear/wide_store.cuh"

namespace qg::device {

// A block's shared memory must last until the others of its team have sent all they send there.
__device__ __forceinline__ void leave_cluster() {
  cluster_arrive();
  cluster_wait();
}

template <WideFormat kFormat, class S>
__global__ void __launch_bounds__(S::kTile.threads(), S::kTile.blocks) wide(const __grid_constant__ WideArguments a) {
#ifdef QG_SM90A
  extern __shared__ char raw[];
  char* ring_base = raw + (1024 - shared_address(raw) % 1024) % 1024;
  char* tail = ring_base + S::kTile.stages * S::kStageBytes;
  float* factors = reinterpret_cast<float*>(tail + S::kTile.groups * S::kStoreBytes);
  char* barriers = tail + S::kTile.groups * (S::kStoreBytes + S::kTile.tokens * 4);
  int* last = reinterpret_cast<int*>(barriers + 2 * S::kTile.stages * 8);
  let_next_start();

  WideRing<S> ring;
  ring.base = shared_address(ring_base);
  ring.full = shared_address(barriers);
  ring.empty = ring.full + S::kTile.stages * 8;
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::kTile.stages; ++i) {
      barrier_init(ring.full + i * 8, 1);
      barrier_init(ring.empty + i * 8, S::kConsumers / 32 * S::kTile.cluster);
    }
    barrier_init_fence();
  }
  __syncthreads();
  if constexpr (S::kTile.cluster > 1) cluster_arrive();
  if (threadIdx.x >= S::kConsumers) {
    if constexpr (S::kTile.trades_registers()) give_registers<kProducerRegisters>();
    if (threadIdx.x < S::kConsumers + 32)
      WideProducer<kFormat, S>(a, ring).run();
    else if constexpr (S::kTile.cluster > 1)
      cluster_wait();
    if constexpr (S::kTile.cluster > 1) leave_cluster();
    return;
  }
  if constexpr (S::kTile.trades_registers()) take_registers<kConsumerRegisters>();
  wait_for_previous();
  if constexpr (S::kTile.cluster > 1) cluster_wait();
  const int group = threadIdx.x / 128;
  WideWalk<S::kTile.cluster> walk(a);
  while (walk.next(a)) {
    typename S::Acc acc[S::kTile.halves][S::kTile.tokens / 2];
    multiply_run<kFormat, S>(a, ring, walk, acc);
    const bool whole = walk.begin == 0 && walk.end == a.steps;
    if (whole || share_tile<S>(a, walk, last, acc))
      store_tile<S>(a, walk, tail + group * S::kStoreBytes, factors + group * S::kTile.tokens, acc);
  }
  if constexpr (S::kTile.cluster > 1) leave_cluster();
#else
  __trap();  // never chosen on such a card
#endif
}

template <WideFormat kFormat, int kTokens, int kGroups, int kHalves, int kStages, int kBlocks, int kCluster = 1>
WideKernel wide_kernel() {
  using S = WideShape<kFormat, kTokens, kGroups, kHalves, kStages, kBlocks, kCluster>;
  static_assert(S::kSharedBytes <= 233472 / kBlocks - 1024, "shared memory of a multiprocessor");
  return {S::kTile, S::kSharedBytes, wide<kFormat, S>};
}

}  // namespace qg::device
