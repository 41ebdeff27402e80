#pragma once
// Small products in float whose operands are functions of their indices: out(batch, i, j, sum over p of a * b). Plain
// tiles of 64 by 64; for matrices of a head's size, where a library call a head would cost more than the product.
#include <cstdint>

#include "kernels/common/cuda.h"

namespace qg {

inline constexpr int kTile = 64, kDepth = 16, kTileThreads = 256;

// A: value at (batch, i, p); along_p: neighbouring p lie side by side. B: value at (batch, p, j), along_p likewise.
template <class A, class B, class Out>
__global__ void __launch_bounds__(kTileThreads) tile_product(A a, B b, Out out, int64_t m, int64_t n, int64_t depth) {
  __shared__ float left[kDepth][kTile + 1], right[kDepth][kTile + 1];
  const int thread = static_cast<int>(threadIdx.x), row = thread / 16, column = thread % 16;
  const int64_t batch = blockIdx.z, first_i = blockIdx.y * static_cast<int64_t>(kTile),
                first_j = blockIdx.x * static_cast<int64_t>(kTile);
  float sums[4][4] = {};
  for (int64_t at = 0; at < depth; at += kDepth) {
#pragma unroll
    for (int s = 0; s < kTile * kDepth / kTileThreads; ++s) {
      const int index = thread + s * kTileThreads;
      const int pa = A::along_p ? index % kDepth : index / kTile, i = A::along_p ? index / kDepth : index % kTile;
      const int pb = B::along_p ? index % kDepth : index / kTile, j = B::along_p ? index / kDepth : index % kTile;
      left[pa][i] = at + pa < depth && first_i + i < m ? a(batch, first_i + i, at + pa) : 0.0f;
      right[pb][j] = at + pb < depth && first_j + j < n ? b(batch, at + pb, first_j + j) : 0.0f;
    }
    __syncthreads();
#pragma unroll
    for (int p = 0; p < kDepth; ++p) {
      float x[4], y[4];
#pragma unroll
      for (int s = 0; s < 4; ++s) {
        x[s] = left[p][row + 16 * s];
        y[s] = right[p][column + 16 * s];
      }
#pragma unroll
      for (int s = 0; s < 4; ++s)
#pragma unroll
        for (int t = 0; t < 4; ++t) sums[s][t] += x[s] * y[t];
    }
    __syncthreads();
  }
#pragma unroll
  for (int s = 0; s < 4; ++s)
#pragma unroll
    for (int t = 0; t < 4; ++t) {
      const int64_t i = first_i + row + 16 * s, j = first_j + column + 16 * t;
      if (i < m && j < n) out(batch, i, j, sums[s][t]);
    }
}

template <class A, class B, class Out>
void batched_product(const CudaQueue& queue, int64_t batches, int64_t m, int64_t n, int64_t depth, const A& a,
                     const B& b, const Out& out) {
  const auto tiles = [](int64_t count) { return static_cast<unsigned>((count + kTile - 1) / kTile); };
  launch(queue, tile_product<A, B, Out>, dim3(tiles(n), tiles(m), static_cast<unsigned>(batches)), dim3(kTileThreads),
         0, a, b, out, m, n, depth);
}

}  // namespace qg
