#pragma once
// What a decode block does with a share of a sequence's tokens, on mma.sync: copies of them into a ring in shared
// memory, scores, softmax, sums, and how the results of warps are merged. Device code only.
#include "kernels/attention/cuda_tile.h"
#include "kernels/common/arrive.cuh"

namespace qg::attention {

constexpr int kWarps = 4, kThreads = 32 * kWarps, kStages = 3;
constexpr int kHalfStageBytes = 4096;  // of K, and of V, that a warp holds in a stage
constexpr int kPartsAtOnce = 16;       // of a unit, that are read at once to be added up
constexpr int kSharedBytes = kWarps * kStages * 2 * kHalfStageBytes;

template <int kHeadDim, KvFormat kFormat, bool kNative>
struct Shape {
  using Codec = Element<kFormat, kNative>;
  static constexpr int kRowBytes = kHeadDim * Codec::kBytes;
  static constexpr int kTokens = kHalfStageBytes / kRowBytes;  // of a warp's step
  static constexpr int kBlockTokens = kTokens * kWarps;
  static constexpr int kChunks = kRowBytes / 16;     // of a row
  static constexpr int kRowsPerCopy = 32 / kChunks;  // that one copy instruction of a warp fills
  static constexpr int kMergePitch = kHeadDim + 4;   // floats of a head while warps are merged
  static constexpr bool kEightBit = Codec::kBytes == 1;
};

// The tokens [begin, end) that a block attends to; first_valid: begin is rounded down from it.
struct Range {
  int begin, end, first_valid;
};

template <class S>
__device__ Range block_range(const Inputs& in, int kv_tokens) {
  const int first_valid = in.window < kv_tokens ? kv_tokens - in.window : 0;
  const int begin = first_valid / S::kTokens * S::kTokens;
  const int splits = gridDim.x;
  const int share =
      ((kv_tokens - begin + splits - 1) / splits + S::kBlockTokens - 1) / S::kBlockTokens * S::kBlockTokens;
  const int mine = begin + static_cast<int>(blockIdx.x) * share;
  return {mine, min(mine + share, kv_tokens), first_valid};
}

// Fills one stage with the tokens from `token` on; those outside the sequence or the window become zeros.
template <class S>
__device__ void copy_step(const Inputs& in, const int32_t* pages, int kv_head, const Range& range, int kv_tokens,
                          int token, uint32_t stage, int lane) {
  const int chunk = lane % S::kChunks, row_in_copy = lane / S::kChunks;
  const int64_t head_bytes = static_cast<int64_t>(S::kRowBytes) << in.page_shift;
#pragma unroll
  for (int block = 0; block < S::kTokens / 16; ++block) {  // 16 tokens lie in one page
    const int first = token + 16 * block;
    const bool any = first < kv_tokens && first + 16 > range.first_valid;
    const int64_t page = any ? pages[first >> in.page_shift] : 0;
    const int slot = first & ((1 << in.page_shift) - 1);
    const std::byte* k = in.pool + (page * 2 * in.kv_heads + kv_head) * head_bytes + slot * S::kRowBytes;
    const std::byte* v = k + in.kv_heads * head_bytes;
#pragma unroll
    for (int i = 0; i < 16; i += S::kRowsPerCopy) {
      const int row = i + row_in_copy, at = first + row;
      const bool valid = any && at < kv_tokens && at >= range.first_valid;
      const int from = row * S::kRowBytes + chunk * 16;
      const uint32_t to = stage + swizzled<S::kRowBytes>(16 * block + row, chunk);
      copy_16_bytes(to, k + from, valid);
      copy_16_bytes(to + kHalfStageBytes, v + from, valid);
    }
  }
}

// The columns of S^T's right factor: query head `lane / 4`, zeros where there is none. With 8-bit K, element 2j of the
// low half of a tile is dimension 4j, 2j + 1 is 4j + 2, and the high half holds 4j + 1 and 4j + 3, as K's bytes come:
// first and second are then dimensions 4j, 4j + 1 and 4j + 2, 4j + 3.
template <class S>
__device__ __forceinline__ void arrange_query(uint32_t first, uint32_t second, uint32_t (&q)[2]) {
  q[0] = S::kEightBit ? __byte_perm(first, second, 0x5410) : first;
  q[1] = S::kEightBit ? __byte_perm(first, second, 0x7632) : second;
}

template <int kHeadDim, class S>
__device__ void load_query(const __half* head, bool exists, int lane, uint32_t (&q)[kHeadDim / 16][2]) {
  const int j = lane % 4;
#pragma unroll
  for (int i = 0; i < kHeadDim / 16; ++i) {
    q[i][0] = q[i][1] = 0;
    if (!exists) continue;
    if constexpr (S::kEightBit) {
      const uint2 four = *reinterpret_cast<const uint2*>(head + 16 * i + 4 * j);
      arrange_query<S>(four.x, four.y, q[i]);
    } else {
      q[i][0] = *reinterpret_cast<const uint32_t*>(head + 16 * i + 2 * j);
      q[i][1] = *reinterpret_cast<const uint32_t*>(head + 16 * i + 8 + 2 * j);
    }
  }
}

// S^T of 16 tokens, rows row0 .. row0 + 15 of the stage.
template <int kHeadDim, class S>
__device__ void score_tile(uint32_t k_stage, int row0, int lane, const uint32_t (&q)[kHeadDim / 16][2], float (&c)[4]) {
  c[0] = c[1] = c[2] = c[3] = 0;
  const int row = row0 + lane % 16;
#pragma unroll
  for (int chunk = 0; chunk < S::kChunks; chunk += 2) {
    uint32_t r[4];
    load_matrices(r, k_stage + swizzled<S::kRowBytes>(row, chunk + lane / 16));
    if constexpr (S::kEightBit) {
      using Codec = typename S::Codec;
      const uint32_t first[4] = {Codec::even_pair(r[0]), Codec::even_pair(r[1]), Codec::odd_pair(r[0]),
                                 Codec::odd_pair(r[1])};
      multiply_add(c, first, q[chunk][0], q[chunk][1]);
      const uint32_t second[4] = {Codec::even_pair(r[2]), Codec::even_pair(r[3]), Codec::odd_pair(r[2]),
                                  Codec::odd_pair(r[3])};
      multiply_add(c, second, q[chunk + 1][0], q[chunk + 1][1]);
    } else {
      multiply_add(c, r, q[chunk / 2][0], q[chunk / 2][1]);
    }
  }
}

// O^T += V^T P^T over 16 tokens; p: the two registers of P^T. With 8-bit V, row r of an output tile is dimension 2r for
// r < 8 and 2 (r - 8) + 1 above, else r.
template <int kHeadDim, class S>
__device__ void add_values(uint32_t v_stage, int row0, int lane, const uint32_t (&p)[2], float (&o)[kHeadDim / 16][4]) {
  if constexpr (S::kEightBit) {
    using Codec = typename S::Codec;
    const int row = row0 + lane % 16;
#pragma unroll
    for (int chunk = 0; chunk < S::kChunks; chunk += 2) {
      uint32_t r[4];
      load_matrices_transposed(r, v_stage + swizzled<S::kRowBytes>(row, chunk + lane / 16));
      const uint32_t first[4] = {Codec::even_pair(r[0]), Codec::odd_pair(r[0]), Codec::even_pair(r[1]),
                                 Codec::odd_pair(r[1])};
      multiply_add(o[chunk], first, p[0], p[1]);
      const uint32_t second[4] = {Codec::even_pair(r[2]), Codec::odd_pair(r[2]), Codec::even_pair(r[3]),
                                  Codec::odd_pair(r[3])};
      multiply_add(o[chunk + 1], second, p[0], p[1]);
    }
  } else {
    const int row = row0 + lane % 8 + lane / 16 * 8;
#pragma unroll
    for (int tile = 0; tile < kHeadDim / 16; ++tile) {
      uint32_t r[4];
      load_matrices_transposed(r, v_stage + swizzled<S::kRowBytes>(row, 2 * tile + lane / 8 % 2));
      multiply_add(o[tile], r, p[0], p[1]);
    }
  }
}

// Running softmax of a warp. sum: of this lane's tokens only, until the end.
template <int kHeadDim>
struct Running {
  float maximum[2] = {-INFINITY, -INFINITY}, sum[2] = {0, 0};
  float o[kHeadDim / 16][4] = {};
};

template <int kHeadDim, class S>
__device__ void attend_step(const Inputs& in, const Range& range, int kv_tokens, int token, uint32_t stage, int lane,
                            const uint32_t (&q)[kHeadDim / 16][2], Running<kHeadDim>& state) {
  constexpr int kTiles = S::kTokens / 16;
  const float scale = in.score_scale * S::Codec::kUnit;
  float s[kTiles][4];
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    score_tile<kHeadDim, S>(stage, 16 * tile, lane, q, s[tile]);
#pragma unroll
    for (int i = 0; i < 4; ++i) s[tile][i] *= scale;
  }
  if (token < range.first_valid || token + S::kTokens > kv_tokens) {
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = token + 16 * tile + lane / 4 + i / 2 * 8;
        if (at < range.first_valid || at >= kv_tokens) s[tile][i] = -INFINITY;
      }
    }
  }
#pragma unroll
  for (int column = 0; column < 2; ++column) {
    float largest = state.maximum[column];
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) largest = fmaxf(largest, fmaxf(s[tile][column], s[tile][column + 2]));
#pragma unroll
    for (int distance = 4; distance < 32; distance *= 2)
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, distance));
    const float factor = exp2_fast(state.maximum[column] - largest);  // every step has a token that is seen
    state.maximum[column] = largest;
    state.sum[column] *= factor;
#pragma unroll
    for (int tile = 0; tile < kHeadDim / 16; ++tile) {
      state.o[tile][column] *= factor;
      state.o[tile][column + 2] *= factor;
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; ++tile) {
#pragma unroll
      for (int i = column; i < 4; i += 2) {
        s[tile][i] = exp2_fast(s[tile][i] - largest);
        state.sum[column] += s[tile][i];
      }
    }
  }
#pragma unroll
  for (int tile = 0; tile < kTiles; ++tile) {
    const uint32_t p[2] = {transpose_matrix(pack_half2(s[tile][0], s[tile][1])),
                           transpose_matrix(pack_half2(s[tile][2], s[tile][3]))};
    add_values<kHeadDim, S>(stage + kHalfStageBytes, 16 * tile, lane, p, state.o);
  }
}

// A head's results of the four warps in shared memory.
template <class S>
struct Merge {
  float o[kWarps][kHeadTile][S::kMergePitch];
  float maximum[kWarps][kHeadTile], sum[kWarps][kHeadTile];
};

template <int kHeadDim, class S>
__device__ void store_for_merge(Merge<S>& merge, int warp, int lane, const Running<kHeadDim>& state) {
  const int column0 = lane % 4 * 2, row = lane / 4;
#pragma unroll
  for (int column = 0; column < 2; ++column) {
    float sum = state.sum[column];
#pragma unroll
    for (int distance = 4; distance < 32; distance *= 2) sum += __shfl_xor_sync(0xffffffffu, sum, distance);
    if (row == 0) {
      merge.maximum[warp][column0 + column] = state.maximum[column];
      merge.sum[warp][column0 + column] = sum;
    }
    float* to = merge.o[warp][column0 + column];
#pragma unroll
    for (int tile = 0; tile < kHeadDim / 16; ++tile) {
      const int low = 16 * tile + (S::kEightBit ? 2 * row : row);
      to[low] = state.o[tile][column];
      to[low + (S::kEightBit ? 1 : 8)] = state.o[tile][column + 2];
    }
  }
}

// Weighted sum of parts of which part i has (maximum, sum) = weight(i) and values o(i), in the order of i. An empty
// part has the maximum -inf and values of zero. Parts are read kAtOnce at a time, so that few wait for one another.
struct Combined {
  float maximum = -INFINITY, sum = 0;
  float4 o = {0, 0, 0, 0};
};

template <int kAtOnce, class Weight, class Values>
__device__ __forceinline__ Combined combine(int parts, const Weight& weight, const Values& values) {
  Combined out;
  for (int first = 0; first < parts; first += kAtOnce) {
    float2 w[kAtOnce];
    float4 o[kAtOnce];
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      w[i] = {-INFINITY, 0};
      o[i] = {0, 0, 0, 0};
      if (first + i < parts) w[i] = weight(first + i), o[i] = values(first + i);
    }
    float maximum = out.maximum;
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) maximum = fmaxf(maximum, w[i].x);
    if (maximum == -INFINITY) continue;
    const float before = exp2_fast(out.maximum - maximum);
    out = {maximum, out.sum * before, {out.o.x * before, out.o.y * before, out.o.z * before, out.o.w * before}};
#pragma unroll
    for (int i = 0; i < kAtOnce; ++i) {
      const float by = exp2_fast(w[i].x - maximum);
      out.sum += by * w[i].y;
      out.o = {out.o.x + by * o[i].x, out.o.y + by * o[i].y, out.o.z + by * o[i].z, out.o.w + by * o[i].w};
    }
  }
  return out;
}

__device__ __forceinline__ void store_final(const DecodeArguments& args, int piece, int head, int column,
                                            const Combined& c, float value_scale, int head_dim) {
  const float by = c.sum > 0 ? value_scale / c.sum : 0.0f;  // an empty piece gives zeros
  store_result(args.out, piece, head * head_dim + column, {c.o.x * by, c.o.y * by, c.o.z * by, c.o.w * by});
}

}  // namespace qg::attention
