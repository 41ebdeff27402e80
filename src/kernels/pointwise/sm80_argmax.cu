// Greedy sampling: several blocks a row, the last of them to finish combines.
#include "kernels/pointwise/cuda.h"
#include "kernels/pointwise/tokens.cuh"

namespace qg {
namespace {

constexpr int kThreads = 256;
constexpr int kSplits = 16;

// A logit and its index as one number: the largest logit, and of equals the lowest index, is the largest key. Not a
// number is above all.
__device__ __forceinline__ uint64_t key_of(float logit, int index) {
  const uint32_t bits = __float_as_uint(logit);
  const uint32_t ordered = isfinite(logit) ? (bits & 0x80000000u ? ~bits : bits | 0x80000000u) : 0xffffffffu;
  return static_cast<uint64_t>(ordered) << 32 | (0xffffffffu - static_cast<uint32_t>(index));
}

struct RowScratch {
  uint64_t best[kSplits];
  uint32_t done;
  uint32_t unused;
};

__global__ void __launch_bounds__(kThreads)
    argmax_kernel(int vocab, const float* logits, TokenTarget to, RowScratch* scratch) {
  let_next_start();
  wait_for_previous();
  const int row = static_cast<int>(blockIdx.y), split = static_cast<int>(blockIdx.x);
  const float* from = logits + static_cast<int64_t>(row) * vocab;
  uint64_t best = 0;
  for (int i = split * kThreads + static_cast<int>(threadIdx.x); i < vocab; i += kThreads * kSplits) {
    const uint64_t key = key_of(from[i], i);
    if (key > best) best = key;
  }
  __shared__ uint64_t partial[kThreads / 32];
  const auto larger = [](uint64_t a, uint64_t b) { return a > b ? a : b; };
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) best = larger(best, __shfl_xor_sync(~0u, best, offset));
  if (threadIdx.x % 32 == 0) partial[threadIdx.x / 32] = best;
  __syncthreads();
  if (threadIdx.x != 0) return;
  for (int i = 1; i < kThreads / 32; ++i) best = larger(best, partial[i]);
  RowScratch& mine = scratch[row];
  mine.best[split] = best;
  __threadfence();
  if (atomicAdd(&mine.done, 1u) != kSplits - 1) return;
  __threadfence();
  for (int i = 0; i < kSplits; ++i) best = larger(best, *static_cast<volatile uint64_t*>(&mine.best[i]));
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
  launch(queue, argmax_kernel, dim3(kSplits, static_cast<unsigned>(rows)), dim3(kThreads), 0, static_cast<int>(vocab),
         logits, to, static_cast<RowScratch*>(scratch));
}

}  // namespace qg
