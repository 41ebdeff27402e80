#pragma once
// The kernel of cuda_bulk.h, for each format of skinny.cuh.
#include "kernels/linear/cuda_bulk.h"
#include "kernels/linear/skinny.cuh"
#include "kernels/linear/wgmma.cuh"
#include "kernels/pointwise/quantize.cuh"
#include "kernels/pointwise/silu.cuh"

namespace qg::device {

template <class Format, int kTiles>
struct BulkShape {
  using F = Format;
  using Acc = typename F::Acc;
  static constexpr int kTokenTiles = kTiles;
  static constexpr bool kInt4 = F::kGroups;
  static constexpr int kUnits = kInt4 ? 1 : 2;  // F::Step a chunk
  static constexpr int kVectors = bulk_x_vectors(F::kFormat);
  static_assert(kUnits * F::kXVectors == kVectors);
  static constexpr int kChunks = kBulkXVectors / kVectors / kTiles;  // most that a warp has
  static constexpr int kChunkBytes = kInt4 ? 512 : 2048;
  static constexpr int kStageChunks = !kInt4 ? 1 : kChunks < 4 ? kChunks : 4;  // of one copy
  static constexpr int kStages = kChunks / kStageChunks;                       // of a tile
  static constexpr int kSlots = kBulkWarpBytes / (kStageChunks * kChunkBytes);
  static constexpr int scale_bytes() {  // a group of a tile
    if constexpr (kInt4) return F::kScaleWords * 32;
    return 0;
  }
  static constexpr int kSlotBytes = kStageChunks * (kChunkBytes + scale_bytes());
  static constexpr int kBatch = kTiles < 2 ? kTiles : 2;  // token tiles added up at a time
  static constexpr int kWarpSums = kBatch * 8 * kReducePitch;
  static constexpr int kRingBytes = kBulkWarps * kSlots * kSlotBytes;
  static constexpr int kSharedBytes = 1024 + kRingBytes + 2 * kBulkWarps * kWarpSums * 4;  // 1024: to align the ring
  using X = uint4[kTiles][kChunks][kUnits][F::kXVectors];
};

// What a warp copies and multiplies: chunks [first, first + count) of tiles tile, tile + step, ...
struct BulkShare {
  int first, count, tile, step;

  __device__ explicit BulkShare(const SkinnyArguments& a) {
    const int warp = threadIdx.x / 32, slice = static_cast<int>(blockIdx.x) % a.slices;
    const int begin = slice * a.chunks_per_slice, chunks = min(a.chunks_per_slice, a.chunks - begin);
    const int from = chunks * warp / kBulkWarps;
    first = begin + from;
    count = chunks * (warp + 1) / kBulkWarps - from;
    tile = static_cast<int>(blockIdx.x) / a.slices;
    step = static_cast<int>(gridDim.x) / a.slices;
  }
};

// Fills the slots of a warp's ring one after the other.
template <class S>
struct BulkFeed {
  const BulkArguments& a;
  const BulkShare& share;
  uint32_t ring, barriers;  // shared addresses
  int tile, chunk = 0, slot = 0;

  __device__ BulkFeed(const BulkArguments& arguments, const BulkShare& of, uint32_t ring_at, uint32_t barriers_at)
      : a(arguments), share(of), ring(ring_at), barriers(barriers_at), tile(of.count > 0 ? of.tile : a.layer.tiles) {}

  __device__ __forceinline__ void next() {
    if (tile >= a.layer.tiles) return;
    if (threadIdx.x % 32 == 0) copy();
    slot = slot + 1 == S::kSlots ? 0 : slot + 1;
    chunk += S::kStageChunks;
    if (chunk < share.count) return;
    chunk = 0;
    tile += share.step;
    if (tile >= a.layer.tiles && threadIdx.x % 32 == 0)
      ask_ahead(a.layer.ahead, static_cast<int>(blockIdx.x * kBulkWarps + threadIdx.x / 32));
  }

 private:
  __device__ __forceinline__ void copy() const {
    const uint32_t to = ring + slot * S::kSlotBytes, barrier = barriers + slot * 8;
    const int from = share.first + chunk;
    if constexpr (S::kInt4) {
      const SkinnyArguments& layer = a.layer;
      const int chunks = min(S::kStageChunks, share.count - chunk);
      const int group = from >> layer.group_shift, groups = ((from + chunks - 1) >> layer.group_shift) - group + 1;
      const uint32_t weight_bytes = chunks * S::kChunkBytes, scale_bytes = groups * S::scale_bytes();
      barrier_expect(barrier, weight_bytes + scale_bytes);
      copy_bytes(to, static_cast<const char*>(layer.weight) + tile * layer.tile_bytes + from * S::kChunkBytes,
                 weight_bytes, barrier, kEvictFirst);
      copy_bytes(to + S::kStageChunks * S::kChunkBytes,
                 static_cast<const char*>(layer.group_scales) +
                     (static_cast<int64_t>(tile) * layer.groups + group) * S::scale_bytes(),
                 scale_bytes, barrier, kEvictFirst);
    } else {
      barrier_expect(barrier, S::kChunkBytes);
      copy_box(to, &a.weight, from * 128, tile * kSkinnyRows, barrier, kEvictFirst);
    }
  }
};

// 16 bytes of x, through the first-level cache: the two blocks of a multiprocessor read the same x at the same time, so
// half of what they ask for need not come from L2. What lay there before is not met: the wait for the kernel before
// makes its writes visible to plain loads (PTX ISA, griddepcontrol.wait). volatile, since a plain load could become one
// of the read-only kind, which the compiler may move before that wait.
__device__ __forceinline__ uint4 load_cached(const char* from) {
  uint4 to;
  asm volatile("ld.global.ca.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(to.x), "=r"(to.y), "=r"(to.z), "=r"(to.w)
               : "l"(from)
               : "memory");
  return to;
}

// The warp's part of x as B fragments. Of row-major formats a lane's 16-byte units 2 t and 2 t + 1 of a chunk are its
// first and second step, so that reading them out of swizzled rows meets no bank twice.
template <class S>
__device__ __forceinline__ void load_x(const SkinnyArguments& a, const BulkShare& share, typename S::X& x) {
  using F = typename S::F;
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
#pragma unroll
  for (int i = 0; i < S::kTokenTiles; ++i) {
    const int token = 8 * i + g;
    const char* row = static_cast<const char*>(a.x) + static_cast<int64_t>(token) * a.x_row_bytes;
#pragma unroll
    for (int c = 0; c < S::kChunks; ++c)
#pragma unroll
      for (int v = 0; v < S::kVectors; ++v) {
        const int at =
            (share.first + c) * (S::kVectors * 64) + (S::kInt4 ? v * 64 + t * 16 : (t * S::kVectors + v) * 16);
        uint4& to = x[i][c][v / F::kXVectors][v % F::kXVectors];
        to = make_uint4(0, 0, 0, 0);
        if (c < share.count && token < a.m && at < a.x_row_bytes) to = load_cached(row + at);
      }
  }
  if constexpr (S::kInt4) {  // nibbles lie with k = 8 i + 2 t for word i
#pragma unroll
    for (int i = 0; i < S::kTokenTiles; ++i)
#pragma unroll
      for (int c = 0; c < S::kChunks; ++c)
#pragma unroll
        for (int v = 0; v < S::kVectors; ++v) {
          uint4& of = x[i][c][0][v];
          uint32_t words[4] = {of.x, of.y, of.z, of.w};
          transpose_quad(words, t);
          of = make_uint4(words[0], words[1], words[2], words[3]);
        }
  }
}

// Step `unit` of chunk `c` in a slot; `chunk` is the slot's first.
template <class S>
__device__ __forceinline__ void load_step(typename S::F::Step& s, const char* slot, int c, int unit, int chunk,
                                          int group_shift) {
  const int lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
  if constexpr (S::kInt4) {
    s.nibbles = *reinterpret_cast<const uint4*>(slot + c * S::kChunkBytes + lane * 16);
    const int group = ((chunk + c) >> group_shift) - (chunk >> group_shift);
    const char* scale = slot + S::kStageChunks * S::kChunkBytes + group * S::scale_bytes() + g * (S::scale_bytes() / 8);
    if constexpr (S::F::kScaleWords == 4) {
      const uint4 v = *reinterpret_cast<const uint4*>(scale);
      s.scale[0] = v.x, s.scale[1] = v.y, s.scale[2] = v.z, s.scale[3] = v.w;
    } else if constexpr (S::F::kScaleWords == 2) {
      const uint2 v = *reinterpret_cast<const uint2*>(scale);
      s.scale[0] = v.x, s.scale[1] = v.y;
    } else {
      s.scale[0] = *reinterpret_cast<const uint32_t*>(scale);
    }
  } else {
    const char* row = slot + g * 128 + ((2 * t + unit) ^ g) * 16;
    s.row[0] = *reinterpret_cast<const uint4*>(row);
    s.row[1] = *reinterpret_cast<const uint4*>(row + 1024);
  }
}

// One slot's chunks, of which kAll or `chunks` are there. The slot is filled again after the products: only they are
// proof that every lane has its weights in registers (asked for right after the loads, copies overwrote them).
template <class S, bool kAll, int kFirst>
__device__ __forceinline__ void multiply_stage(const SkinnyArguments& a, const char* slot, int chunk, int chunks,
                                               const typename S::X& x, BulkFeed<S>& feed,
                                               typename S::Acc (&acc)[S::kTokenTiles][4]) {
  using F = typename S::F;
#pragma unroll
  for (int c = 0; c < S::kStageChunks; ++c)
    if (kAll || c < chunks) {
      typename F::Step steps[S::kUnits];
#pragma unroll
      for (int u = 0; u < S::kUnits; ++u) load_step<S>(steps[u], slot, c, u, chunk, a.group_shift);
#pragma unroll
      for (int u = 0; u < S::kUnits; ++u) {
        const typename F::Expanded weights = F::expand(steps[u]);
#pragma unroll
        for (int i = 0; i < S::kTokenTiles; ++i) F::multiply(weights, acc[i], x[i][kFirst + c][u]);
      }
    }
  __syncwarp();
  feed.next();
}

// Writes the sum of one token and row, scaled. All lanes call it: rows 8.. give theirs to the gate rows 8 before.
template <class F>
__device__ __forceinline__ void finish(const BulkArguments& args, int tile, int token, int row, bool valid,
                                       float value) {
  const SkinnyArguments& a = args.layer;
  if (args.gate == GateForm::none) {
    if (valid && tile * kSkinnyRows + row < a.n) store<F>(a, token, tile * kSkinnyRows + row, value);
    return;
  }
  constexpr bool kBf16 = F::kFormat == SkinnyFormat::bf16;
  const float rounded = kBf16 ? __bfloat162float(__float2bfloat16_rn(value)) : __half2float(__float2half_rn(value));
  const float up = __shfl_xor_sync(0xffffffffu, rounded, 8);
  if (!valid || row >= 8) return;
  const int column = tile * 8 + row;
  float gated = silu_times(rounded, up);
  if (args.gate_prequant) gated *= args.gate_prequant[column];
  const int64_t at = static_cast<int64_t>(token) * (a.n / 2) + column;
  if constexpr (kBf16) {  // no kernel follows that wants 8 bits
    static_cast<__nv_bfloat16*>(a.y)[at] = __float2bfloat16_rn(gated);
  } else {
    if (args.gate == GateForm::f16) static_cast<__half*>(a.y)[at] = __float2half_rn(gated);
    if (args.gate == GateForm::fp8)
      static_cast<uint8_t*>(a.y)[at] = quantize<ActivationForm::fp8>(gated, args.gate_inverse);
    if (args.gate == GateForm::int8)
      static_cast<uint8_t*>(a.y)[at] = quantize<ActivationForm::int8>(gated, args.gate_inverse);
  }
}

// The block's sums of one tile, warp after warp, to y or to the slice's partial sums.
template <class S>
__device__ __forceinline__ void reduce_bulk(const BulkArguments& args, int tile, const float* factors,
                                            typename S::Acc* sums, int& flip,
                                            const typename S::Acc (&acc)[S::kTokenTiles][4]) {
  using Acc = typename S::Acc;
  const SkinnyArguments& a = args.layer;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int place = threadIdx.x / 16, row = threadIdx.x % 16;  // of the sum that this thread makes
  const float channel = a.channel_scales ? a.channel_scales[tile * kSkinnyRows + row] : 1.0f;
#pragma unroll
  for (int b = 0; b < S::kTokenTiles; b += S::kBatch) {
    Acc* buffer = sums + flip * kBulkWarps * S::kWarpSums;
    flip ^= 1;  // the other buffer may still be read by slower warps
    Acc* mine = buffer + warp * S::kWarpSums;
#pragma unroll
    for (int i = 0; i < S::kBatch; ++i) {
      mine[(8 * i + 2 * t) * kReducePitch + g] = acc[b + i][0];
      mine[(8 * i + 2 * t + 1) * kReducePitch + g] = acc[b + i][1];
      mine[(8 * i + 2 * t) * kReducePitch + g + 8] = acc[b + i][2];
      mine[(8 * i + 2 * t + 1) * kReducePitch + g + 8] = acc[b + i][3];
    }
    __syncthreads();
    if (place >= 8 * S::kBatch) continue;  // whole warps
    Acc sum = 0;
#pragma unroll
    for (int w = 0; w < kBulkWarps; ++w) sum += buffer[w * S::kWarpSums + place * kReducePitch + row];
    const int token = 8 * b + place;
    if (a.slices == 1) {
      finish<typename S::F>(args, tile, token, row, token < a.m, static_cast<float>(sum) * (factors[token] * channel));
    } else if (token < a.m) {
      const int slice = static_cast<int>(blockIdx.x) % a.slices;
      __stcg(static_cast<Acc*>(a.partials) + (static_cast<int64_t>(tile) * a.slices + slice) * S::kTokenTiles * 128 +
                 token * 16 + row,
             sum);
    }
  }
}

// The last of the blocks that share tiles adds up their sums, in the order of the slices.
template <class S>
__device__ __forceinline__ void finish_bulk_slices(const BulkArguments& args, const float* factors, int* last) {
  using Acc = typename S::Acc;
  const SkinnyArguments& a = args.layer;
  const int group = static_cast<int>(blockIdx.x) / a.slices, step = static_cast<int>(gridDim.x) / a.slices;
  __syncthreads();
  if (threadIdx.x == 0) *last = arrive(&a.tickets[group]) == a.slices - 1;
  __syncthreads();
  if (!*last) return;
  if (threadIdx.x == 0) a.tickets[group] = 0;
  constexpr int kTileSums = S::kTokenTiles * 128, kOutputs = 4, kSlices = 4;  // in flight
  const int tile_sums = a.m * 16, total = ((a.tiles - 1 - group) / step + 1) * tile_sums;
  const Acc* partials = static_cast<const Acc*>(a.partials);
  for (int base = 0; base < total; base += kOutputs * kBulkWarps * 32) {
    Acc sum[kOutputs] = {};
    for (int s0 = 0; s0 < a.slices; s0 += kSlices) {
      Acc part[kOutputs][kSlices] = {};
#pragma unroll
      for (int j = 0; j < kOutputs; ++j) {
        const int at = base + j * kBulkWarps * 32 + threadIdx.x, tile = group + at / tile_sums * step;
        const Acc* from = partials + static_cast<int64_t>(tile) * a.slices * kTileSums + at % tile_sums;
#pragma unroll
        for (int s = 0; s < kSlices; ++s)
          if (at < total && s0 + s < a.slices) part[j][s] = __ldcg(from + (s0 + s) * kTileSums);
      }
#pragma unroll
      for (int j = 0; j < kOutputs; ++j)
#pragma unroll
        for (int s = 0; s < kSlices; ++s) sum[j] += part[j][s];
    }
#pragma unroll
    for (int j = 0; j < kOutputs; ++j) {
      const int at = base + j * kBulkWarps * 32 + threadIdx.x, row = at % 16;
      const int tile = at < total ? group + at / tile_sums * step : group, token = at % tile_sums / 16;
      const float channel = a.channel_scales ? a.channel_scales[tile * kSkinnyRows + row] : 1.0f;
      finish<typename S::F>(args, tile, token, row, at < total,
                            static_cast<float>(sum[j]) * (factors[token] * channel));
    }
  }
}

// A tile's stages, one after the other; kStage of S::kStages.
template <class S, int kStage = 0>
__device__ __forceinline__ void multiply_tile(const SkinnyArguments& a, const BulkShare& share, const char* ring,
                                              uint32_t barriers, int& slot, uint32_t& phase, const typename S::X& x,
                                              BulkFeed<S>& feed, typename S::Acc (&acc)[S::kTokenTiles][4]) {
  if constexpr (kStage < S::kStages) {
    constexpr int kFirst = kStage * S::kStageChunks;
    if (kFirst >= share.count) return;
    barrier_wait(barriers + slot * 8, phase);
    __syncwarp();
    const char* from = ring + slot * S::kSlotBytes;
    const int chunks = share.count - kFirst;
    if (chunks >= S::kStageChunks) {
      multiply_stage<S, true, kFirst>(a, from, share.first + kFirst, chunks, x, feed, acc);
    } else {
      multiply_stage<S, false, kFirst>(a, from, share.first + kFirst, chunks, x, feed, acc);
    }
    slot = slot + 1 == S::kSlots ? 0 : slot + 1;
    phase ^= slot == 0;
    multiply_tile<S, kStage + 1>(a, share, ring, barriers, slot, phase, x, feed, acc);
  }
}

template <class S>
__global__ void __launch_bounds__(kBulkWarps * 32, 2) bulk(const __grid_constant__ BulkArguments args) {
#ifdef QG_SM90A
  extern __shared__ char raw[];
  __shared__ uint64_t full[kBulkWarps][S::kSlots];
  __shared__ float factors[kSkinnyMaxTokens];
  __shared__ int last;
  let_next_start();

  const SkinnyArguments& a = args.layer;
  char* base = raw + (1024 - shared_address(raw) % 1024) % 1024;
  const int warp = threadIdx.x / 32;
  char* ring = base + warp * S::kSlots * S::kSlotBytes;
  const uint32_t barriers = shared_address(full[warp]);
  if (threadIdx.x % 32 == 0) {
    if constexpr (!S::kInt4) prefetch_map(&args.weight);
    for (int i = 0; i < S::kSlots; ++i) barrier_init(barriers + i * 8, 1);
    barrier_init_fence();
  }
  __syncwarp();
  const BulkShare share(a);
  BulkFeed<S> feed(args, share, shared_address(ring), barriers);
  for (int i = 0; i < S::kSlots; ++i) feed.next();

  wait_for_previous();
  if (threadIdx.x < kSkinnyMaxTokens)
    factors[threadIdx.x] = a.row_scales && threadIdx.x < a.m ? __ldcg(a.row_scales + threadIdx.x) * a.scale : a.scale;
  typename S::X x;
  load_x<S>(a, share, x);

  int flip = 0, slot = 0;
  uint32_t phase = 0;
  typename S::Acc* sums = reinterpret_cast<typename S::Acc*>(base + S::kRingBytes);
  for (int tile = share.tile; tile < a.tiles; tile += share.step) {
    typename S::Acc acc[S::kTokenTiles][4] = {};
    multiply_tile<S>(a, share, ring, barriers, slot, phase, x, feed, acc);
    reduce_bulk<S>(args, tile, factors, sums, flip, acc);
  }
  if (a.slices > 1) finish_bulk_slices<S>(args, factors, &last);
#else
  __trap();  // never chosen on such a card
#endif
}

// The kernel for `token_tiles`.
template <class F>
BulkKernel bulk_for(int token_tiles) {
  switch (token_tiles) {
    case 1:
      return {bulk<BulkShape<F, 1>>, BulkShape<F, 1>::kSharedBytes};
    case 2:
      return {bulk<BulkShape<F, 2>>, BulkShape<F, 2>::kSharedBytes};
    default:
      return {bulk<BulkShape<F, 4>>, BulkShape<F, 4>::kSharedBytes};
  }
}

}  // namespace qg::device
