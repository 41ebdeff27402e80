#pragma once
// Linear layers for few tokens, where time is the reading of the weights. The weights are the A operand of the tensor
// cores (16 rows of W), the tokens the columns of B (8, 16 or 32). Lanes load the weights from global memory
// straight into fragments; the order of k inside a fragment is free as long as A and B agree, so that 16 bytes of a
// row-major row are two fragment registers of two instructions. x lies in shared memory. docs/engine.md has more.
#include <cstdint>

#include "kernels/common/cuda.h"
#include "kernels/linear/cuda_ahead.h"

namespace qg {

// What the kernel multiplies. w4: symmetric; w4_zeros: a zero point a group; w4_zeros_32: groups that are a multiple of
// 32 and not of 64.
enum class SkinnyFormat { f16, e4m3_f16, w4, w4_zeros, w4_zeros_32, e4m3, int8, bf16 };

inline constexpr int kSkinnyMaxTokens = 32;  // m of one launch
// Loads in flight lie in the first-level cache: where a kernel with much shared memory ran before, the split would
// otherwise stay as it was and leave room for few. In percent of what an SM can have; two blocks fit.
inline constexpr int kSkinnySharedPercent = 44;
inline constexpr int kSkinnyWarps = 8;
inline constexpr int kSkinnyRows = 16;   // rows of W a tile
inline constexpr int kReducePitch = 20;  // floats; 8 tokens x 16 rows without bank conflicts
inline constexpr int kReduceBytes = 2 * kSkinnyWarps * 8 * kReducePitch * 4;

// Bytes of x's row that belong to one chunk (a chunk is what 16 bytes a lane of weights meet), and k of a chunk.
struct SkinnyChunk {
  int k = 0, x_bytes = 0, x_pad = 0;  // x_pad: pitch of x's rows in shared memory, modulo 128
};
constexpr SkinnyChunk skinny_chunk(SkinnyFormat format) {
  switch (format) {
    case SkinnyFormat::f16:
    case SkinnyFormat::bf16:
      return {32, 64, 64};
    case SkinnyFormat::e4m3:
    case SkinnyFormat::int8:
      return {64, 64, 64};
    case SkinnyFormat::e4m3_f16:
      return {64, 128, 16};
    case SkinnyFormat::w4:
    case SkinnyFormat::w4_zeros:
    case SkinnyFormat::w4_zeros_32:
      return {64, 128, 16};
  }
  return {};
}

struct SkinnyArguments {
  const void* weight = nullptr;            // row-major with a pitch, or tiles of nibbles (cuda_repack.h)
  const void* group_scales = nullptr;      // w4
  const float* channel_scales = nullptr;   // [n rounded up to 16] or null
  const void* x = nullptr;                 // [m, k]
  const float* row_scales = nullptr;       // [m] or null
  void* y = nullptr;                       // [m, n]
  void* partials = nullptr;                // [tiles, slices, token tiles * 8, 16], slices > 1
  int* tickets = nullptr;                  // [tiles], zero before and after
  WeightsAhead ahead;                      // a part a warp
  float scale = 1;                         // of everything
  int64_t tile_bytes = 0, half_bytes = 0;  // of weights: from tile to tile, and from row g to row g + 8
  int m = 0, n = 0;
  int tiles = 0, chunks = 0;             // of 16 rows; along k
  int slices = 1, chunks_per_slice = 0;  // of k, across blocks
  int x_row_bytes = 0, x_pitch = 0;      // in global and in shared memory
  int group_shift = 0, groups = 0;       // w4: chunk >> shift is its group; groups a row
  bool y_f32 = false;
  bool y_f16 = false;  // of bf16 products, which leave as bf16 otherwise
};

struct SkinnyPlan {
  int token_tiles = 1;  // of 8: 1, 2, 4
  int slices = 1, chunks_per_slice = 0;
  int grid = 0, x_pitch = 0, shared_bytes = 0;
};

// For 1 <= m <= kSkinnyMaxTokens. Slices of k appear when x does not fit in half of a multiprocessor's shared memory.
SkinnyPlan plan_skinny(SkinnyFormat format, int64_t m, int64_t n, int64_t k, const DeviceCapabilities& device);
int64_t skinny_partial_bytes(const SkinnyPlan& plan, int64_t n);

// Once a device, before the first launch: raises the kernels' shared-memory limits.
void configure_skinny(const DeviceCapabilities& device);
void launch_skinny(SkinnyFormat format, const SkinnyPlan& plan, const SkinnyArguments& arguments,
                   const CudaQueue& queue);

// One per source file: those of a family.
using SkinnyKernel = void (*)(SkinnyArguments);
SkinnyKernel skinny_kernel_w16(SkinnyFormat format, int token_tiles);  // f16, e4m3_f16
SkinnyKernel skinny_kernel_w4(SkinnyFormat format, int token_tiles);   // w4*
SkinnyKernel skinny_kernel_bf16(int token_tiles);
SkinnyKernel skinny_kernel_int8(int token_tiles);
SkinnyKernel skinny_kernel_e4m3(int token_tiles);  // sm89

}  // namespace qg
