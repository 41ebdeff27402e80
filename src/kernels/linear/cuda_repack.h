#pragma once
// Device-side changes of form of weights and sums, around the kernels that multiply.
#include <cstdint>

#include "core/dtype.h"
#include "kernels/common/cuda.h"

namespace qg {

// from [n, k] of F16, BF16 or F32 to [n, pitch] of F16 or BF16 (another type than from's), `apart` rows from a run of
// `run` rows to the next one (n for both: dense); *overflows becomes 1 where a finite value would become infinite.
void convert_to_16(DType from_type, const void* from, DType to_type, void* to, int64_t n, int64_t k, int64_t pitch,
                   int64_t run, int64_t apart, int* overflows, cudaStream_t stream);

// The stored form of int4 weights on the device: tiles of 16 rows, in them chunks of 64 of k, in them 16 bytes a lane
// (lane = 4 g + t): words for (row g, k half 0), (row g + 8, half 0), (row g, half 1), (row g + 8, half 1), each eight
// nibbles: nibble i of a word is k = 32 half + 8 i + 2 t, and nibble i + 4 the one after it. So a word becomes the
// registers of two A fragments of mma or wgmma with k in its own order.
// Scales: per tile and group, for g = 0..7, `halves` words of the scales of rows g and g + 8 as halves (times
// `multiplier`, which keeps them away from subnormals), then, if zeros, as many of 1024 + zero.
struct Int4Layout {
  int64_t n = 0, k = 0;
  int64_t group_size = 0;  // as stored in the checkpoint
  int group_shift = 0;     // a chunk's group is chunk >> group_shift
  int groups = 0;          // a row
  int halves = 1;          // scales a chunk: 2 where group_size is not a multiple of 64
  bool zeros = false;

  constexpr int64_t tiles() const { return (n + 15) / 16; }
  constexpr int64_t chunks() const { return (k + 63) / 64; }
  constexpr int64_t weight_bytes() const { return tiles() * chunks() * 512; }
  constexpr int scale_words() const { return halves * (zeros ? 2 : 1); }
  constexpr int64_t scale_bytes() const { return tiles() * groups * scale_words() * 32; }
};
// codes [n, k/2] as LinearWeights has them.
void pack_int4(const Int4Layout& layout, const void* codes, void* to, cudaStream_t stream);
// scales [n, k/group_size]; zeros as many bytes, or null for 8.
void pack_int4_scales(const Int4Layout& layout, const float* scales, const uint8_t* zeros, float multiplier, void* to,
                      cudaStream_t stream);
// Halves [n, k]: (u - zero) * stored scale, rounded once.
void expand_int4(const Int4Layout& layout, const void* weight, const void* scales, void* to, const CudaQueue& queue);

// e4m3 [n, pitch] to halves [n, k], times channel_scales [n] where not null (rounded once; else exact).
void expand_e4m3(const void* weight, const float* channel_scales, void* to, int64_t n, int64_t k, int64_t pitch,
                 const CudaQueue& queue);

// y[m, n] = sums[m, n] * (row scale * channel_scales[n]); the row scale is row_scales[m] * scale, or scale where null.
// n is a multiple of 4.
void scale_sums(bool integers, const void* sums, const float* row_scales, float scale, const float* channel_scales,
                void* y, bool y_f32, int64_t m, int64_t n, const CudaQueue& queue);

}  // namespace qg
