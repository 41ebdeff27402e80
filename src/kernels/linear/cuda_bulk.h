#pragma once
// Linear layers for few tokens on Hopper, where time is the reading of the weights. As in cuda_skinny.h the weights are
// the A operand of mma.sync and the tokens the columns of B, but the weights come by bulk copies: each warp has a ring
// of its own in shared memory that it fills and empties without waiting for the others, and its part of x stays in
// registers. A block takes half of a multiprocessor, so that the next kernel of a chain has its rings full when its
// turn comes. Few blocks share an x, and each reads only its slice of k.
#include <cstdint>

#include "kernels/linear/cuda_skinny.h"
#include "kernels/linear/cuda_wide.h"

namespace qg {

inline constexpr int kBulkWarps = 8;
inline constexpr int kBulkXVectors = 16;        // of 16 bytes, a lane: a warp's part of x
inline constexpr int kBulkWarpBytes = 8 << 10;  // of weights in flight
// As many as fit. With one, a multiprocessor whose block of the kernel before has ended gets two of the next one's and
// another gets none: 250 tokens/s instead of 305 with Llama-3.1-8B in FP8.
inline constexpr int kBulkBlocksPerMultiprocessor = 2;

// k of a chunk: 128 bytes of x's or W's row, whichever of both has the fewer bytes a value: what one step of a warp
// takes.
constexpr int bulk_chunk_k(SkinnyFormat format) {
  return format == SkinnyFormat::e4m3 || format == SkinnyFormat::int8 || format == SkinnyFormat::e4m3_f16 ? 128 : 64;
}
constexpr int bulk_x_vectors(SkinnyFormat format) {  // of 16 bytes a lane, chunk and 8 tokens
  return format == SkinnyFormat::e4m3_f16 ? 4 : 2;
}

struct BulkArguments {
  TensorMap weight;  // of row-major formats: boxes of 16 rows x 128 bytes
  SkinnyArguments layer;
  GateForm gate = GateForm::none;
  const float* gate_prequant = nullptr;  // [n / 2] or null
  float gate_inverse = 1;                // of the static scale
};

struct BulkPlan {
  int token_tiles = 1;  // of 8: 1, 2, 4
  int slices = 1, chunks_per_slice = 0;
  int grid = 0;
};

// For 1 <= m <= kSkinnyMaxTokens. Slices of k appear when a block's registers do not hold all of x.
BulkPlan plan_bulk(SkinnyFormat format, int64_t m, int64_t n, int64_t k, int64_t blocks);  // blocks: at most
int64_t bulk_partial_bytes(const BulkPlan& plan, int64_t n);

// Once a device, before the first launch.
void configure_bulk();
void launch_bulk(SkinnyFormat format, const BulkPlan& plan, const BulkArguments& arguments, const CudaQueue& queue);

struct BulkKernel {
  void (*kernel)(BulkArguments) = nullptr;
  int shared_bytes = 0;
};
// One per source file.
BulkKernel bulk_kernel_w16(SkinnyFormat format, int token_tiles);  // f16, e4m3_f16
BulkKernel bulk_kernel_bf16(int token_tiles);
BulkKernel bulk_kernel_w4(SkinnyFormat format, int token_tiles);  // w4*
BulkKernel bulk_kernel_w8(SkinnyFormat format, int token_tiles);  // e4m3, int8

}  // namespace qg
