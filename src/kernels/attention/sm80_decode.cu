// Decode: one query a piece against its pages. A block takes up to eight query heads of one KV head and a share of the
// tokens; each of its warps takes every fourth step of them through a ring of its own in shared memory, with a running
// maximum and sum, and no block-wide barrier until the warps' results are merged.
//
// Both products are computed transposed, so that tokens (then head_dim) lie on the 16 rows of the tensor core's tile
// and query heads on its 8 columns: S^T = K q^T, O^T = V^T P^T. Column n of every result is query head n, so a lane
// keeps maximum, sum and rescaling of its two columns (2j, 2j + 1, j = lane mod 4) in its own registers.
#include <climits>

#include "core/error.h"
#include "kernels/attention/cuda_tile.h"

namespace qg::attention {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps, kStages = 3;
constexpr int kHalfStageBytes = 4096;  // of K, and of V, that a warp holds in a stage
constexpr int kSharedBytes = kWarps * kStages * 2 * kHalfStageBytes;
constexpr int kSteps = 2;  // of a block, at least, that make a split worth its combining

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
// low half of a tile is dimension 4j, 2j + 1 is 4j + 2, and the high half holds 4j + 1 and 4j + 3, as K's bytes come.
template <int kHeadDim, class S>
__device__ void load_query(const __half* head, bool exists, int lane, uint32_t (&q)[kHeadDim / 16][2]) {
  const int j = lane % 4;
#pragma unroll
  for (int i = 0; i < kHeadDim / 16; ++i) {
    q[i][0] = q[i][1] = 0;
    if (!exists) continue;
    if constexpr (S::kEightBit) {
      const uint2 four = *reinterpret_cast<const uint2*>(head + 16 * i + 4 * j);
      q[i][0] = __byte_perm(four.x, four.y, 0x5410);
      q[i][1] = __byte_perm(four.x, four.y, 0x7632);
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

// Weighted sum of parts of which part i has maximum(i), sum(i) and values o(i), in the order of i. An empty part has
// the maximum -inf, and its values are not read.
struct Combined {
  float maximum = -INFINITY, sum = 0;
  float4 o = {0, 0, 0, 0};
};

template <class Maximum, class Sum, class Values>
__device__ Combined combine(int parts, const Maximum& maximum, const Sum& sum, const Values& values) {
  Combined out;
  for (int i = 0; i < parts; ++i) out.maximum = fmaxf(out.maximum, maximum(i));
  for (int i = 0; i < parts; ++i) {
    const float m = maximum(i);
    if (m == -INFINITY) continue;
    const float weight = exp2_fast(m - out.maximum);
    const float4 o = values(i);
    out.sum += weight * sum(i);
    out.o = {out.o.x + weight * o.x, out.o.y + weight * o.y, out.o.z + weight * o.z, out.o.w + weight * o.w};
  }
  return out;
}

__device__ void store_final(const DecodeArguments& args, int piece, int head, int column, const Combined& c,
                            float value_scale, int head_dim) {
  const float by = c.sum > 0 ? value_scale / c.sum : 0.0f;  // an empty piece gives zeros
  store_result(args.out, piece, head * head_dim + column, {c.o.x * by, c.o.y * by, c.o.z * by, c.o.w * by});
}

template <int kHeadDim, KvFormat kFormat, bool kNative>
__global__ void __launch_bounds__(kThreads, kDecodeBlocksPerMultiprocessor) decode_kernel(const DecodeArguments args) {
  using S = Shape<kHeadDim, kFormat, kNative>;
  extern __shared__ __align__(128) std::byte shared[];
  const Inputs& in = args.in;
  let_next_start();
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, piece = blockIdx.z;
  const int kv_head = blockIdx.y / args.head_tiles, head_tile = blockIdx.y % args.head_tiles;
  const int first_head = head_tile * kHeadTile, heads_here = min(kHeadTile, in.group - first_head);
  const int first_q_head = kv_head * in.group + first_head;
  const int kv_tokens = in.batch.kv_tokens[piece];
  const Range range = block_range<S>(in, kv_tokens);
  const int32_t* pages = in.batch.page_table + static_cast<int64_t>(piece) * in.batch.max_pages;
  const int start = range.begin + warp * S::kTokens;
  const int steps = start < range.end ? (range.end - start + S::kBlockTokens - 1) / S::kBlockTokens : 0;
  const uint32_t ring = shared_address(shared) + warp * kStages * 2 * kHalfStageBytes;
  const auto copy = [&](int step) {
    copy_step<S>(in, pages, kv_head, range, kv_tokens, start + step * S::kBlockTokens,
                 ring + step % kStages * 2 * kHalfStageBytes, lane);
  };

  // Steps without the newest token do not depend on the kernel before this one.
  int issued = 0;
  for (; issued < kStages - 1 && issued < steps && start + issued * S::kBlockTokens + S::kTokens < kv_tokens;
       ++issued) {
    copy(issued);
    commit_copies();
  }
  wait_for_previous();
  for (; issued < kStages - 1; ++issued) {
    if (issued < steps) copy(issued);
    commit_copies();
  }
  uint32_t q[kHeadDim / 16][2];
  const bool exists = lane / 4 < heads_here && kv_tokens > 0;
  load_query<kHeadDim, S>(in.q + (static_cast<int64_t>(piece) * in.heads + first_q_head + lane / 4) * kHeadDim, exists,
                          lane, q);

  Running<kHeadDim> state;
  for (int step = 0; step < steps; ++step) {
    wait_for_copies<kStages - 2>();
    __syncwarp();
    if (step + kStages - 1 < steps) copy(step + kStages - 1);
    commit_copies();
    attend_step<kHeadDim, S>(in, range, kv_tokens, start + step * S::kBlockTokens,
                             ring + step % kStages * 2 * kHalfStageBytes, lane, q, state);
  }
  wait_for_copies<0>();
  __syncthreads();
  auto& merge = *reinterpret_cast<Merge<S>*>(shared);
  store_for_merge<kHeadDim, S>(merge, warp, lane, state);
  __syncthreads();

  const float value_scale = in.value_scale * S::Codec::kUnit;
  const int splits = gridDim.x, unit = piece * gridDim.y + blockIdx.y;
  constexpr int kQuads = kHeadDim / 4, kPartial = kHeadDim + 4;
  float* parts = args.partial + static_cast<int64_t>(unit) * splits * kHeadTile * kPartial;
  for (int i = threadIdx.x; i < heads_here * kQuads; i += kThreads) {
    const int head = i / kQuads, column = i % kQuads * 4;
    const Combined c = combine(
        kWarps, [&](int w) { return merge.maximum[w][head]; }, [&](int w) { return merge.sum[w][head]; },
        [&](int w) { return *reinterpret_cast<const float4*>(&merge.o[w][head][column]); });
    if (splits == 1) {
      store_final(args, piece, first_q_head + head, column, c, value_scale, kHeadDim);
      continue;
    }
    float* part = parts + (static_cast<int64_t>(blockIdx.x) * kHeadTile + head) * kPartial;
    __stcg(reinterpret_cast<float4*>(part + column), c.o);
    if (column == 0) __stcg(reinterpret_cast<float2*>(part + kHeadDim), {c.maximum, c.sum});
  }
  if (splits == 1) return;

  // The block that arrives last adds up all parts, in the order of the splits.
  __shared__ bool last;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0) last = atomicAdd(args.arrived + unit, 1) == splits - 1;
  __syncthreads();
  if (!last) return;
  __threadfence();
  for (int i = threadIdx.x; i < heads_here * kQuads; i += kThreads) {
    const int head = i / kQuads, column = i % kQuads * 4;
    const auto part = [&](int split) { return parts + (static_cast<int64_t>(split) * kHeadTile + head) * kPartial; };
    const Combined c = combine(
        splits, [&](int split) { return __ldcg(part(split) + kHeadDim); },
        [&](int split) { return __ldcg(part(split) + kHeadDim + 1); },
        [&](int split) { return __ldcg(reinterpret_cast<const float4*>(part(split) + column)); });
    store_final(args, piece, first_q_head + head, column, c, value_scale, kHeadDim);
  }
  if (threadIdx.x == 0) args.arrived[unit] = 0;
}

template <int kHeadDim, KvFormat kFormat, bool kNative>
void launch_variant(const CudaQueue& queue, dim3 grid, const DecodeArguments& args) {
  static_assert(sizeof(Merge<Shape<kHeadDim, kFormat, kNative>>) <= kSharedBytes);
  const auto kernel = decode_kernel<kHeadDim, kFormat, kNative>;
  static const bool prepared = [&] {
    QG_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
    return true;
  }();
  static_cast<void>(prepared);
  launch(queue, kernel, grid, dim3(kThreads), kSharedBytes, args);
}

template <int kHeadDim>
void launch_head_dim(const CudaQueue& queue, const Variant& variant, dim3 grid, const DecodeArguments& args) {
  switch (variant.format) {
    case KvFormat::fp16:
      return launch_variant<kHeadDim, KvFormat::fp16, false>(queue, grid, args);
    case KvFormat::fp8:
      if (variant.native_fp8) return launch_variant<kHeadDim, KvFormat::fp8, true>(queue, grid, args);
      return launch_variant<kHeadDim, KvFormat::fp8, false>(queue, grid, args);
    case KvFormat::int8:
      return launch_variant<kHeadDim, KvFormat::int8, false>(queue, grid, args);
  }
}

}  // namespace

int decode_step_tokens(KvFormat format, int head_dim) {
  return kSteps * kWarps * kHalfStageBytes / (head_dim * (format == KvFormat::fp16 ? 2 : 1));
}

void launch_decode(const CudaQueue& queue, const Variant& variant, int pieces, int splits,
                   const DecodeArguments& args) {
  const dim3 grid(static_cast<unsigned>(splits), static_cast<unsigned>(args.in.kv_heads * args.head_tiles),
                  static_cast<unsigned>(pieces));
  if (variant.head_dim == 128) return launch_head_dim<128>(queue, variant, grid, args);
  if (variant.head_dim == 64) return launch_head_dim<64>(queue, variant, grid, args);
  throw Error("Attention has a head size that the GPU kernels are not built for", "", "head sizes are 64 and 128");
}

}  // namespace qg::attention
