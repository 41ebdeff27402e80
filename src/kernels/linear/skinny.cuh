#pragma once
// The kernel of cuda_skinny.h, for each format. A block has 8 warps: teams of kTeam warps share a tile of 16 rows and
// split k; a team walks over tiles, its next weights always in flight, and adds up its warps' sums in a fixed order.
#include <cuda_bf16.h>

#include "kernels/linear/cuda_skinny.h"
#include "kernels/linear/mma.cuh"

namespace qg::device {

// Per format: Acc, the bytes of a chunk of 16 rows that follow one another (stride), loads in flight (kDepth steps),
// and
//   load(step, weights, group scales)   one step: 16 rows x one chunk
//   Expanded e(step); e.multiply(acc, x words of this lane)

// Two rows (g, g + 8) of 16 bytes a lane out of a row-major matrix: two instructions for 8-bit and 16-bit codes alike.
struct RowStep {
  uint4 row[2];
};

template <class Accumulator,
          void (*kMultiply)(Accumulator (&)[4], uint32_t, uint32_t, uint32_t, uint32_t, uint32_t, uint32_t)>
struct RowFormat {
  using Acc = Accumulator;
  using Step = RowStep;
  static constexpr int kXVectors = 1;  // uint4 of x a lane and chunk
  static constexpr bool kRowMajor = true;
  static constexpr bool kGroups = false, kMatrixLoads = false;
  static __device__ __forceinline__ void multiply(const Step& s, Acc (&acc)[4], const uint4 (&x)[1]) {
    kMultiply(acc, s.row[0].x, s.row[1].x, s.row[0].y, s.row[1].y, x[0].x, x[0].y);
    kMultiply(acc, s.row[0].z, s.row[1].z, s.row[0].w, s.row[1].w, x[0].z, x[0].w);
  }
  using Expanded = Step;
  static __device__ __forceinline__ Expanded expand(const Step& s) { return s; }
};

struct F16 : RowFormat<float, mma_f16> {
  static constexpr SkinnyFormat kFormat = SkinnyFormat::f16;
};
struct Bf16 : RowFormat<float, mma_bf16> {
  static constexpr SkinnyFormat kFormat = SkinnyFormat::bf16;
};
struct E4m3 : RowFormat<float, mma_e4m3> {
  static constexpr SkinnyFormat kFormat = SkinnyFormat::e4m3;
};
struct Int8 : RowFormat<int, mma_s8> {
  static constexpr SkinnyFormat kFormat = SkinnyFormat::int8;
};

// e4m3 weights, halves of x: the codes become halves in registers (times 1/256, undone by the scale).
struct E4m3F16 {
  using Acc = float;
  using Step = RowStep;
  static constexpr SkinnyFormat kFormat = SkinnyFormat::e4m3_f16;
  static constexpr int kXVectors = 2;
  static constexpr bool kRowMajor = true;
  static constexpr bool kGroups = false, kMatrixLoads = false;
  struct Expanded {
    uint32_t row[2][8];  // halves 2 i, 2 i + 1 of the lane's 16
  };
  static __device__ __forceinline__ Expanded expand(const Step& s) {
    Expanded e;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const uint32_t words[4] = {s.row[r].x, s.row[r].y, s.row[r].z, s.row[r].w};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        uint32_t pair[2];
        expand_e4m3(words[i], pair);
        e.row[r][2 * i] = pair[0];
        e.row[r][2 * i + 1] = pair[1];
      }
    }
    return e;
  }
  static __device__ __forceinline__ void multiply(const Expanded& e, float (&acc)[4], const uint4 (&x)[2]) {
    const uint32_t words[8] = {x[0].x, x[0].y, x[0].z, x[0].w, x[1].x, x[1].y, x[1].z, x[1].w};
#pragma unroll
    for (int i = 0; i < 8; i += 2)
      mma_f16(acc, e.row[0][i], e.row[1][i], e.row[0][i + 1], e.row[1][i + 1], words[i], words[i + 1]);
  }
};

// Nibbles, halves of x. A lane's 16 bytes are rows g and g + 8 of the first 32 of k, then of the second 32 (pack_int4).
// The products of a group are added up first and scaled as floats: (u - zero) is exact, so the scale rounds once.
template <SkinnyFormat kThis>
struct W4 {
  using Acc = float;
  static constexpr SkinnyFormat kFormat = kThis;
  static constexpr bool kZeros = kThis != SkinnyFormat::w4;
  static constexpr int kHalves = kThis == SkinnyFormat::w4_zeros_32 ? 2 : 1;  // scales a chunk
  static constexpr int kScaleWords = kHalves * (kZeros ? 2 : 1);              // a row pair and group
  static constexpr int kXVectors = 2;
  static constexpr bool kRowMajor = false;
  static constexpr bool kGroups = true, kMatrixLoads = true;
  struct Step {
    uint4 nibbles;
    uint32_t scale[kScaleWords];  // halves of rows g and g + 8: scales, then 1024 + zero
  };
  struct Expanded {
    uint32_t row[2][8];
    float scale[kHalves][2];
  };
  static __device__ __forceinline__ Expanded expand(const Step& s) {
    Expanded e;
#pragma unroll
    for (int h = 0; h < kHalves; ++h) {
      const float2 f = __half22float2(halves(s.scale[h]));
      e.scale[h][0] = f.x;
      e.scale[h][1] = f.y;
    }
    const uint32_t words[2][2] = {{s.nibbles.x, s.nibbles.z}, {s.nibbles.y, s.nibbles.w}};
#pragma unroll
    for (int r = 0; r < 2; ++r) {
#pragma unroll
      for (int h = 0; h < 2; ++h) {
        __half2 low = __half2half2(__ushort_as_half(0xe408));   // -(1024 + 8)
        __half2 high = __half2half2(__ushort_as_half(0xd480));  // -(64 + 8)
        if constexpr (kZeros) {
          const __half2 both = halves(s.scale[kHalves + (kHalves == 2 ? h : 0)]);
          low = __hneg2(r == 0 ? __low2half2(both) : __high2half2(both));
          high = __hadd2(low, __half2half2(__ushort_as_half(0x6380)));  // + 960
        }
        uint32_t pair[4];
        expand_nibbles(words[r][h], low, high, pair);
#pragma unroll
        for (int i = 0; i < 4; ++i) e.row[r][4 * h + i] = pair[i];
      }
    }
    return e;
  }
  static __device__ __forceinline__ void multiply(const Expanded& e, float (&acc)[4], const uint4 (&x)[2]) {
#pragma unroll
    for (int h = 0; h < 2; ++h) {
      float sum[4] = {};
      const uint32_t words[4] = {x[h].x, x[h].y, x[h].z, x[h].w};
#pragma unroll
      for (int i = 0; i < 4; i += 2)
        mma_f16(sum, e.row[0][4 * h + i], e.row[1][4 * h + i], e.row[0][4 * h + i + 1], e.row[1][4 * h + i + 1],
                words[i], words[i + 1]);
      const float* scale = e.scale[kHalves == 2 ? h : 0];
      acc[0] += scale[0] * sum[0];
      acc[1] += scale[0] * sum[1];
      acc[2] += scale[1] * sum[2];
      acc[3] += scale[1] * sum[3];
    }
  }
};

template <class F>
struct Reader {
  const char* weight;  // of this lane, tile 0, chunk 0
  const char* scales;
  int64_t tile_bytes, half_bytes, tile_scale_bytes;
  int group_shift;
  uint64_t policy;

  __device__ Reader(const SkinnyArguments& a, int lane) : policy(evict_first_policy()) {
    weight = static_cast<const char*>(a.weight);
    scales = static_cast<const char*>(a.group_scales);
    weight += F::kRowMajor ? (lane / 4) * (a.half_bytes / 8) + (lane % 4) * 16 : lane * 16;
    tile_bytes = a.tile_bytes;
    half_bytes = a.half_bytes;
    group_shift = a.group_shift;
    if constexpr (F::kGroups) {
      scales += (lane / 4) * F::kScaleWords * 4;
      tile_scale_bytes = int64_t{a.groups} * F::kScaleWords * 32;
    }
  }
  __device__ __forceinline__ void load(typename F::Step& s, int tile, int chunk) const {
    if constexpr (F::kRowMajor) {
      const char* from = weight + tile * tile_bytes + chunk * 64;
      s.row[0] = load_once(from, policy);
      s.row[1] = load_once(from + half_bytes, policy);
    } else {
      s.nibbles = load_once(weight + tile * tile_bytes + chunk * 512, policy);
      const char* from = scales + tile * tile_scale_bytes + (chunk >> group_shift) * (F::kScaleWords * 32);
#pragma unroll
      for (int i = 0; i < F::kScaleWords; ++i) s.scale[i] = load_u32(from + 4 * i);
    }
  }
};

// x[m, k of this slice] to shared memory, zeros behind k's end.
template <class F>
__device__ __forceinline__ void copy_x(const SkinnyArguments& a, char* shared, int first_chunk, int chunks) {
  constexpr int kChunkBytes = skinny_chunk(F::kFormat).x_bytes;
  const int begin = first_chunk * kChunkBytes, bytes = chunks * kChunkBytes;
  const char* x = static_cast<const char*>(a.x) + begin;
  for (int row = 0; row < a.m; ++row)
    for (int i = threadIdx.x * 16; i < bytes; i += kSkinnyWarps * 32 * 16) {
      const bool valid = begin + i < a.x_row_bytes;
      copy_async_16(shared + row * a.x_pitch + i, x + static_cast<int64_t>(row) * a.x_row_bytes + (valid ? i : 0),
                    valid);
    }
  copy_async_wait_all();
  __syncthreads();
}

template <class F>
__device__ __forceinline__ void store(const SkinnyArguments& a, int token, int row, float value) {
  const int64_t at = static_cast<int64_t>(token) * a.n + row;
  if constexpr (F::kFormat == SkinnyFormat::bf16) {
    if (!a.y_f32 && !a.y_f16) {
      static_cast<__nv_bfloat16*>(a.y)[at] = __float2bfloat16_rn(value);
      return;
    }
  }
  if (a.y_f32) {
    static_cast<float*>(a.y)[at] = value;
  } else {
    static_cast<__half*>(a.y)[at] = __float2half_rn(value);
  }
}

// Of the kTeam warps of one team.
template <int kTeam>
__device__ __forceinline__ void team_barrier(int team) {
  if constexpr (kTeam == 1) {
    __syncwarp();
  } else {
    barrier(1 + team, kTeam * 32);
  }
}

// What a team knows while it works on tiles.
struct Team {
  int id, thread;        // thread: within the team
  int slice;             // of k
  const float* factors;  // [kSkinnyMaxTokens] shared: scale of each token
  int* last;             // shared
};

// The last team to finish a tile adds up all slices' sums, in the order of the slices.
template <class F, int kTokenTiles, int kTeam>
__device__ __forceinline__ void finish_slices(const SkinnyArguments& a, const Team& team, int tile, float channel) {
  team_barrier<kTeam>(team.id);
  if (team.thread == 0) *team.last = arrive(&a.tickets[tile]) == a.slices - 1;
  team_barrier<kTeam>(team.id);
  if (!*team.last) return;
  using Acc = typename F::Acc;
  constexpr int kSums = kTokenTiles * 8 * 16;
  const Acc* sums = static_cast<const Acc*>(a.partials) + static_cast<int64_t>(tile) * a.slices * kSums;
  const int row = tile * 16 + team.thread % 16;
  for (int i = team.thread; i < a.m * 16; i += kTeam * 32) {
    Acc sum = 0;
    for (int s = 0; s < a.slices; ++s) sum += __ldcg(sums + s * kSums + i);
    if (row < a.n) store<F>(a, i / 16, row, static_cast<float>(sum) * (team.factors[i / 16] * channel));
  }
  if (team.thread == 0) a.tickets[tile] = 0;
}

// The team's sums of one tile, warp after warp, to y or to the slice's partial sums.
template <class F, int kTokenTiles, int kTeam>
__device__ __forceinline__ void reduce_tile(const SkinnyArguments& a, const Team& team, int tile, float channel,
                                            const typename F::Acc (&acc)[kTokenTiles][4], int& flip) {
  using Acc = typename F::Acc;
  extern __shared__ __align__(128) char shared[];
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int row = tile * 16 + team.thread % 16;
#pragma unroll
  for (int i = 0; i < kTokenTiles; ++i) {
    Acc* buffer = reinterpret_cast<Acc*>(shared) + flip * kSkinnyWarps * 8 * kReducePitch;
    flip ^= 1;  // the other buffer may still be read by slower warps
    Acc* mine = buffer + warp * 8 * kReducePitch;
    mine[2 * t * kReducePitch + g] = acc[i][0];
    mine[(2 * t + 1) * kReducePitch + g] = acc[i][1];
    mine[2 * t * kReducePitch + g + 8] = acc[i][2];
    mine[(2 * t + 1) * kReducePitch + g + 8] = acc[i][3];
    team_barrier<kTeam>(team.id);
    const Acc* all = buffer + team.id * kTeam * 8 * kReducePitch + team.thread % 16;
#pragma unroll
    for (int at = 0; at < 128; at += kTeam * 32) {
      const int place = (at + team.thread) / 16, token = 8 * i + place;
      if (place >= 8 || token >= a.m) continue;
      Acc sum = 0;
#pragma unroll
      for (int w = 0; w < kTeam; ++w) sum += all[(w * 8 + place) * kReducePitch];
      if (a.slices > 1) {
        static_cast<Acc*>(a.partials)[(static_cast<int64_t>(tile) * a.slices + team.slice) * kTokenTiles * 128 +
                                      token * 16 + team.thread % 16] = sum;
      } else if (row < a.n) {
        store<F>(a, token, row, static_cast<float>(sum) * (team.factors[token] * channel));
      }
    }
  }
  if (a.slices > 1) finish_slices<F, kTokenTiles, kTeam>(a, team, tile, channel);
}

// Steps in flight: as many as 128 registers hold beside the sums.
template <class F>
constexpr int depth(int token_tiles) {
  if constexpr (F::kRowMajor) return token_tiles <= 2 ? 4 : 3;
  if constexpr (!F::kRowMajor) return token_tiles == 1 ? 8 : token_tiles == 2 ? 6 : 4;
}

template <class F, int kTokenTiles>
__global__ void __launch_bounds__(kSkinnyWarps * 32, 2) skinny(const SkinnyArguments a) {
  constexpr int kTeam = kSkinnyWarps / kTokenTiles, kTeams = kTokenTiles;
  constexpr int kDepth = depth<F>(kTokenTiles);
  constexpr int kChunkBytes = skinny_chunk(F::kFormat).x_bytes;
  constexpr bool kWideLane = F::kRowMajor && kChunkBytes == 128;  // a lane's 16 values of x are neighbours
  extern __shared__ __align__(128) char shared[];
  __shared__ float factors[kSkinnyMaxTokens];
  __shared__ int last_of_tile[kTeams];
  let_next_start();

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, g = lane / 4, t = lane % 4;
  const int member = warp % kTeam;
  const Team team = {warp / kTeam, static_cast<int>(threadIdx.x) % (kTeam * 32),
                     static_cast<int>(blockIdx.x) % a.slices, factors, &last_of_tile[warp / kTeam]};
  const int first_chunk = team.slice * a.chunks_per_slice, chunks = min(a.chunks_per_slice, a.chunks - first_chunk);
  const int begin = chunks * member / kTeam, count = chunks * (member + 1) / kTeam - begin;
  const int rounds = ((chunks + kTeam - 1) / kTeam + kDepth - 1) / kDepth;
  const int tile_step = static_cast<int>(gridDim.x) / a.slices * kTeams;
  int tile = static_cast<int>(blockIdx.x) / a.slices * kTeams + team.id;

  const Reader<F> reader(a, lane);
  typename F::Step steps[kDepth] = {};
#pragma unroll
  for (int j = 0; j < kDepth; ++j)
    if (tile < a.tiles && j < count) reader.load(steps[j], tile, first_chunk + begin + j);

  wait_for_previous();
  if (threadIdx.x < a.m) factors[threadIdx.x] = a.row_scales ? __ldcg(a.row_scales + threadIdx.x) * a.scale : a.scale;
  copy_x<F>(a, shared + kReduceBytes, first_chunk, chunks);
  int x_rows[kTokenTiles];
#pragma unroll
  for (int i = 0; i < kTokenTiles; ++i)
    x_rows[i] = after_barrier(kReduceBytes + begin * kChunkBytes +
                              (F::kMatrixLoads ? min(8 * i + lane % 8, a.m - 1) * a.x_pitch + lane / 8 * 16
                                               : min(8 * i + g, a.m - 1) * a.x_pitch + t * (kWideLane ? 32 : 16)));

  int flip = 0;
  for (; tile < a.tiles; tile += tile_step) {
    const float channel = a.channel_scales ? a.channel_scales[tile * 16 + team.thread % 16] : 1.0f;
    typename F::Acc acc[kTokenTiles][4] = {};
    for (int round = 0; round < rounds; ++round) {
      const bool ends = round + 1 == rounds;
      const int next_tile = ends ? tile + tile_step : tile, next = ends ? 0 : (round + 1) * kDepth;
#pragma unroll
      for (int j = 0; j < kDepth; ++j) {
        const int chunk = round * kDepth + j;
        const typename F::Expanded weights = F::expand(steps[j]);
        if (next_tile < a.tiles && next + j < count) reader.load(steps[j], next_tile, first_chunk + begin + next + j);
        if (chunk >= count) continue;
#pragma unroll
        for (int i = 0; i < kTokenTiles; ++i) {
          if (kTokenTiles >= 4 && i % 2 == 0) __syncwarp();  // keeps the compiler from loading all of x at once
          uint4 x[F::kXVectors];
#pragma unroll
          for (int v = 0; v < F::kXVectors; ++v) {
            const char* from = shared + x_rows[i] + chunk * kChunkBytes + v * (kWideLane ? 16 : 64);
            x[v] = F::kMatrixLoads ? load_matrices(from) : *reinterpret_cast<const uint4*>(from);
          }
          F::multiply(weights, acc[i], x);
        }
      }
    }
    if (tile + tile_step >= a.tiles && lane == 0)
      ask_ahead(a.ahead, static_cast<int>(blockIdx.x) * kSkinnyWarps + warp);
    reduce_tile<F, kTokenTiles, kTeam>(a, team, tile, channel, acc, flip);
  }
}

// The kernel for `token_tiles`, null when there is none.
template <class F>
SkinnyKernel skinny_for(int token_tiles) {
  switch (token_tiles) {
    case 1:
      return skinny<F, 1>;
    case 2:
      return skinny<F, 2>;
    case 4:
      return skinny<F, 4>;
  }
  return nullptr;
}

}  // namespace qg::device
