// Greedy sampling: several blocks a row, the last of them to finish combines.
#include "kernels/common/arrive.cuh"
#include "kernels/pointwise/cuda.h"
#include "kernels/pointwise/tokens.cuh"

namespace qg {
namespace {

constexpr int kThreads = 256;
// Blocks a row. A step of few rows has the card for itself: there more blocks read the logits sooner.
constexpr int kSplits = 16, kMostSplits = 64, kFewRows = 4;

// A logit and its index as one number: the largest logit, and of equals the lowest index, is the largest key. Not a
// number is above all.
__device__ __forceinline__ uint64_t key_of(float logit, int index) {
  const uint32_t bits = __float_as_uint(logit);
  const uint32_t ordered = isfinite(logit) ? (bits & 0x80000000u ? ~bits : bits | 0x80000000u) : 0xffffffffu;
  return static_cast<uint64_t>(ordered) << 32 | (0xffffffffu - static_cast<uint32_t>(index));
}

struct RowScratch {
  uint64_t best[kMostSplits];
  int32_t done;
  int32_t unused;
};

__global__ void __launch_bounds__(kThreads)
    argmax_kernel(int vocab, const float* logits, TokenTarget to, RowScratch* scratch) {
  let_next_start();
  wait_for_previous();
  const int row = static_cast<int>(blockIdx.y), split = static_cast<int>(blockIdx.x);
  const int splits = static_cast<int>(gridDim.x), thread = static_cast<int>(threadIdx.x);
  const float* from = logits + static_cast<int64_t>(row) * vocab;
  const auto larger = [](uint64_t a, uint64_t b) { return a > b ? a : b; };
  const auto warp_largest = [&](uint64_t best) {
#pragma unroll
    for (int offset = 16; offset > 0; offset /= 2) best = larger(best, __shfl_xor_sync(~0u, best, offset));
    return best;
  };
  uint64_t best = 0;
#pragma unroll 4
  for (int i = split * kThreads + thread; i < vocab; i += kThreads * splits) best = larger(best, key_of(from[i], i));
  __shared__ uint64_t partial[kThreads / 32];
  best = warp_largest(best);
  if (thread % 32 == 0) partial[thread / 32] = best;
  __syncthreads();
  if (thread >= 32) return;
  best = warp_largest(thread < kThreads / 32 ? partial[thread] : 0);
  RowScratch& mine = scratch[row];
  bool last = false;
  if (thread == 0) {
    mine.best[split] = best;
    last = arrive(&mine.done) == splits - 1;
  }
  if (!__shfl_sync(~0u, last, 0)) return;
  __syncwarp();
  for (int i = thread; i < splits; i += 32) best = larger(best, *static_cast<volatile uint64_t*>(&mine.best[i]));
  best = warp_largest(best);
  if (thread != 0) return;
  mine.done = 0;
  const bool finite = best >> 32 != 0xffffffffu;
  store_token(to, row, finite ? static_cast<int32_t>(0xffffffffu - static_cast<uint32_t>(best)) : -2);
}

}  // namespace

int64_t argmax_scratch_bytes(int64_t rows) {
  return rows * static_cast<int64_t>(sizeof(RowScratch));
}

void argmax_rows(const CudaQueue& queue, int64_t rows, int64_t vocab, const float* logits, const TokenTarget& to,
                 void* scratch) {
  if (rows == 0) return;
  const unsigned splits = rows <= kFewRows ? kMostSplits : kSplits;
  launch(queue, argmax_kernel, dim3(splits, static_cast<unsigned>(rows)), dim3(kThreads), 0, static_cast<int>(vocab),
         logits, to, static_cast<RowScratch*>(scratch));
}

}  // namespace qg
