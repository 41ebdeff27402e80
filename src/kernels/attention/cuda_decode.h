#pragma once
// The decode kernel: one query a piece against its pages. A block takes up to eight query heads of one KV head and a
// share of the tokens; each of its warps takes every fourth step of them through a ring of its own in shared memory,
// with a running maximum and sum, and no block-wide barrier until the warps' results are merged.
//
// Both products are computed transposed, so that tokens (then head_dim) lie on the 16 rows of the tensor core's tile
// and query heads on its 8 columns: S^T = K q^T, O^T = V^T P^T. Column n of every result is query head n, so a lane
// keeps maximum, sum and rescaling of its two columns (2j, 2j + 1, j = lane mod 4) in its own registers.
#include "core/error.h"
#include "kernels/attention/cuda_newest.h"
#include "kernels/attention/cuda_newest_keys.h"

namespace qg::attention {

template <int kHeadDim, KvFormat kFormat, bool kNative, Newest kNewest>
__global__ void __launch_bounds__(kThreads, kDecodeBlocksPerMultiprocessor) decode_kernel(const DecodeArguments args) {
  using S = Shape<kHeadDim, kFormat, kNative>;
  extern __shared__ __align__(128) std::byte shared[];
  const Inputs& in = args.in;
  let_next_start();
  int piece = blockIdx.z;
  if constexpr (kNewest == Newest::shaped) {
    if (piece < args.newest.key_layers) return shape_newest_keys<kHeadDim, kFormat>(args, shared);
    piece -= args.newest.key_layers;
  }
  const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
  const int kv_head = blockIdx.y / args.head_tiles, head_tile = blockIdx.y % args.head_tiles;
  const int first_head = head_tile * kHeadTile, heads_here = min(kHeadTile, in.group - first_head);
  const int first_q_head = kv_head * in.group + first_head;
  const int kv_tokens = in.batch.kv_tokens[piece];
  const Range range = block_range<S>(in, kv_tokens);
  const int32_t* pages = in.batch.page_table + static_cast<int64_t>(piece) * in.batch.max_pages;
  const int start = range.begin + warp * S::kTokens;
  const int steps = start < range.end ? (range.end - start + S::kBlockTokens - 1) / S::kBlockTokens : 0;
  const uint32_t ring = shared_address(shared) + warp * kStages * 2 * kHalfStageBytes;
  // Tokens that are in the pages already.
  const int stored = kNewest == Newest::stored ? kv_tokens : kv_tokens - 1;
  const auto copy = [&](int step) {
    copy_step<S>(in, pages, kv_head, range, stored, start + step * S::kBlockTokens,
                 ring + step % kStages * 2 * kHalfStageBytes, lane);
  };

  // Stored tokens were written by earlier steps, many kernels ago: only the newest depends on the kernel before this
  // one.
  int issued = 0;
  for (; issued < kStages - 1 && issued < steps &&
         (kNewest != Newest::stored || start + issued * S::kBlockTokens + S::kTokens < kv_tokens);
       ++issued) {
    copy(issued);
    commit_copies();
  }
  uint32_t q[kHeadDim / 16][2];
  const bool exists = lane / 4 < heads_here && kv_tokens > 0;
  // Whether this warp's last step has the newest token.
  bool has_newest = false;
  NewestToken<kHeadDim, kFormat, kNewest> newest;
  const auto issue_rest = [&] {
    for (; issued < kStages - 1; ++issued) {
      if (issued < steps) copy(issued);
      commit_copies();
    }
  };
  if constexpr (kNewest == Newest::stored) {
    wait_for_previous();
    issue_rest();
    load_query<kHeadDim, S>(in.q + (static_cast<int64_t>(piece) * in.heads + first_q_head + lane / 4) * kHeadDim,
                            exists, lane, q);
  } else {
    issue_rest();
    has_newest = steps > 0 && start + (steps - 1) * S::kBlockTokens + S::kTokens >= kv_tokens;
    Queries<kHeadDim, S, kNewest> queries;
    queries.prepare(args, kv_head, kv_tokens - 1, warp, lane);
    if (has_newest) newest.prepare(args, pages, piece, kv_head, kv_tokens - 1, head_tile == 0, lane);
    wait_for_previous();
    if (has_newest) newest.read();
    // The first warp's last stage is not filled yet.
    queries.get(args.newest.qkv.rows + piece * args.newest.qkv.stride + (first_q_head + lane / 4) * kHeadDim, exists,
                warp, lane, shared + (kStages - 1) * 2 * kHalfStageBytes, q);
    if (has_newest) newest.encode(args.newest);
  }

  Running<kHeadDim> state;
  for (int step = 0; step < steps; ++step) {
    wait_for_copies<kStages - 2>();
    __syncwarp();
    if (step + kStages - 1 < steps) copy(step + kStages - 1);
    commit_copies();
    const int token = start + step * S::kBlockTokens;
    const uint32_t stage = ring + step % kStages * 2 * kHalfStageBytes;
    if constexpr (kNewest != Newest::stored) {
      if (has_newest && step == steps - 1) {
        uint64_t* mail = nullptr;
        if constexpr (kNewest == Newest::shaped)
          mail = args.newest.mail + (static_cast<int64_t>(piece) * gridDim.y + blockIdx.y) * 32 + lane;
        newest.put(stage, kv_tokens - 1 - token, mail, lane);
      }
    }
    attend_step<kHeadDim, S>(in, range, kv_tokens, token, stage, lane, q, state);
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
    const Combined c = combine<kWarps>(
        kWarps,
        [&](int w) {
          return float2{merge.maximum[w][head], merge.sum[w][head]};
        },
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
  __syncthreads();
  if (threadIdx.x == 0) last = arrive(args.arrived + unit) == splits - 1;
  __syncthreads();
  if (!last) return;
  for (int i = threadIdx.x; i < heads_here * kQuads; i += kThreads) {
    const int head = i / kQuads, column = i % kQuads * 4;
    const auto part = [&](int split) { return parts + (static_cast<int64_t>(split) * kHeadTile + head) * kPartial; };
    const Combined c = combine<kPartsAtOnce>(
        splits, [&](int split) { return __ldcg(reinterpret_cast<const float2*>(part(split) + kHeadDim)); },
        [&](int split) { return __ldcg(reinterpret_cast<const float4*>(part(split) + column)); });
    store_final(args, piece, first_q_head + head, column, c, value_scale, kHeadDim);
  }
  if (threadIdx.x == 0) args.arrived[unit] = 0;
}

template <int kHeadDim, KvFormat kFormat, bool kNative, Newest kNewest>
void launch_variant(const CudaQueue& queue, dim3 grid, const DecodeArguments& args) {
  static_assert(sizeof(Merge<Shape<kHeadDim, kFormat, kNative>>) <= kSharedBytes);
  static_assert(kSharedBytes <= kLeastSharedBytes);
  const auto kernel = decode_kernel<kHeadDim, kFormat, kNative, kNewest>;
  static const bool prepared = [&] {
    QG_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
    return true;
  }();
  static_cast<void>(prepared);
  launch(queue, kernel, grid, dim3(kThreads), kSharedBytes, args);
}

template <int kHeadDim, Newest kNewest>
void launch_head_dim(const CudaQueue& queue, const Variant& variant, dim3 grid, const DecodeArguments& args) {
  if (variant.format == KvFormat::int8)
    return launch_variant<kHeadDim, KvFormat::int8, false, kNewest>(queue, grid, args);
  if (variant.format == KvFormat::fp8) {
    if (variant.native_fp8) return launch_variant<kHeadDim, KvFormat::fp8, true, kNewest>(queue, grid, args);
    return launch_variant<kHeadDim, KvFormat::fp8, false, kNewest>(queue, grid, args);
  }
  if constexpr (kNewest == Newest::shaped)
    throw Error("A cache of fp16 is never shaped");
  else
    launch_variant<kHeadDim, KvFormat::fp16, false, kNewest>(queue, grid, args);
}

// Blocks along z: key_layers, then the pieces.
template <Newest kNewest>
void launch_decode_kernel(const CudaQueue& queue, const Variant& variant, int pieces, int splits,
                          const DecodeArguments& args) {
  const dim3 grid(static_cast<unsigned>(splits), static_cast<unsigned>(args.in.kv_heads * args.head_tiles),
                  static_cast<unsigned>(args.newest.key_layers + pieces));
  if (variant.head_dim == 128) return launch_head_dim<128, kNewest>(queue, variant, grid, args);
  if (variant.head_dim == 64) return launch_head_dim<64, kNewest>(queue, variant, grid, args);
  throw Error("Attention has a head size that the GPU kernels are not built for", "", "head sizes are 64 and 128");
}

}  // namespace qg::attention
