#pragma once
// The kernel of cuda_wide.h.
#include "kernels/linear/cuda_wide.h"
#include "kernels/linear/mma.cuh"
#include "kernels/linear/wgmma.cuh"
#include "kernels/pointwise/quantize.cuh"
#include "kernels/pointwise/silu.cuh"

namespace qg::device {

inline constexpr int kStoreTokens = 32, kStorePitch = 144;  // a warpgroup's 64 features of 32 tokens, without conflicts
inline constexpr int kStorePlaceBytes = kStoreTokens * kStorePitch;
inline constexpr int kProducerRegisters = 24, kConsumerRegisters = 240;  // of 168 each: WideTile::trades_registers

// Per format: Acc, bytes of x and of weights a stage of one tile.
template <WideFormat kFormat>
struct WideTraits {
  static constexpr bool kInt4 = kFormat == WideFormat::w4 || kFormat == WideFormat::w4_zeros;
  static constexpr int kScaleWords = kFormat == WideFormat::w4_zeros ? 2 : 1;
};
template <WideFormat kFormat>
struct WideSum {
  using Type = float;
};
template <>
struct WideSum<WideFormat::int8> {
  using Type = int;
};

template <WideFormat kFormat, int kTokens, int kGroups, int kHalves, int kStages, int kBlocks, int kCluster>
struct WideShape {
  using Traits = WideTraits<kFormat>;
  using Acc = typename WideSum<kFormat>::Type;
  static constexpr int kConsumers = 128 * kGroups;  // threads that multiply
  static constexpr int kFeatures = 64 * kGroups * kHalves;
  static constexpr int kRowTiles = kFeatures / 16;
  static constexpr int kStep = wide_step(kFormat);
  static constexpr int kXBox = kTokens * 128;
  static constexpr int kChunks = kStep / 64;                   // of int4
  static constexpr int kXBoxes = Traits::kInt4 ? kChunks : 1;  // of 128 bytes of k
  static constexpr int kXBytes = kXBox * kXBoxes;
  static constexpr int kTileBytes = kChunks * 512;  // int4: of a row tile
  static constexpr int kUnits = kChunks * kHalves;  // int4: of 64 x 64, which become fragments at a time
  static constexpr int kScaleBytes = Traits::kInt4 ? Traits::kScaleWords * 32 * kChunks : 0;  // and its groups
  static constexpr int kWeightBytes = Traits::kInt4 ? kRowTiles * (kTileBytes + kScaleBytes) : kFeatures * 128;
  static constexpr int kStageBytes = (kXBytes + kWeightBytes + 1023) / 1024 * 1024;
  // A warpgroup's results on their way out: with two places one is read while the other is written.
  static constexpr int kStorePlaces = kTokens >= 128 && kGroups <= 2 ? 2 : 1;
  static constexpr int kStoreBytes = kStorePlaces * kStorePlaceBytes;
  static constexpr int kTail = kGroups * (kStoreBytes + kTokens * 4) + 2 * kStages * 8 + 16;
  static constexpr int kSharedBytes = 1024 + kStages * kStageBytes + kTail;  // 1024: to align the ring
  static constexpr WideTile kTile = {kTokens, kGroups, kHalves, kStages, kBlocks, kCluster};
};

// What a team of kCluster blocks does, as runs of steps of one tile after the other. A team's tile has kCluster times
// the features of a block's.
template <int kCluster>
struct WideWalk {
  int rank;                        // of this block in its team
  int feature, token, begin, end;  // the run: steps [begin, end) of a tile; feature: this block's part
  int split_tile;                  // its number among the split ones
  int next_whole, split, finish;   // what follows: whole tiles, then steps [split, finish) of the split tiles

  __device__ explicit WideWalk(const WideArguments& a) {
    const int team = this_team(), total = a.split_tiles * a.steps;
    rank = kCluster == 1 ? 0 : static_cast<int>(blockIdx.x) % kCluster;
    next_whole = team;
    split_tile = 0;
    split = team < a.split_teams ? first_step(a, team, total) : 0;
    finish = team < a.split_teams ? first_step(a, team + 1, total) : 0;
  }
  static __device__ int this_team() { return static_cast<int>(blockIdx.x) / kCluster; }
  static __device__ int first_step(const WideArguments& a, int team, int total) {
    return static_cast<int>(int64_t{total} * team / a.split_teams);
  }
  // The team whose share holds a step.
  static __device__ int owner(const WideArguments& a, int step) {
    return static_cast<int>(((int64_t{step} + 1) * a.split_teams - 1) / (int64_t{a.split_tiles} * a.steps));
  }
  __device__ bool next(const WideArguments& a) {
    if (next_whole < a.whole_tiles) {
      const int features = a.whole_tiles / a.token_tiles, band = next_whole / (kTokenBand * features) * kTokenBand;
      const int width = min(kTokenBand, a.token_tiles - band), at = next_whole - band * features;
      feature = at / width * kCluster + rank;
      token = band + at % width;
      begin = 0;
      end = a.steps;
      next_whole += static_cast<int>(gridDim.x) / kCluster;
      return true;
    }
    if (split >= finish) return false;
    const int at = split / a.steps;
    // Features first: teams that work at the same time then meet the same weights for different tokens.
    const int features = a.split_tiles / a.token_tiles;
    feature = (a.whole_tiles / a.token_tiles + at % features) * kCluster + rank;
    token = at / features;
    split_tile = at;
    begin = split - at * a.steps;
    end = min(a.steps, finish - at * a.steps);
    split = at * a.steps + end;
    return true;
  }
};

template <class S>
struct WideRing {
  uint32_t base, full, empty;  // shared addresses
  int stage = 0;
  uint32_t phase = 0;
  __device__ uint32_t x() const { return base + stage * S::kStageBytes; }
  __device__ uint32_t weights() const { return x() + S::kXBytes; }
  __device__ uint32_t full_barrier() const { return full + stage * 8; }
  __device__ uint32_t empty_barrier() const { return empty + stage * 8; }
  __device__ void advance() {
    if (++stage == S::kTile.stages) {
      stage = 0;
      phase ^= 1;
    }
  }
};

// The copies of one stage after the other, by one lane of the last warp.
template <WideFormat kFormat, class S>
struct WideProducer {
  using Traits = WideTraits<kFormat>;
  const WideArguments& a;
  WideRing<S> ring;
  WideWalk<S::kTile.cluster> walk;
  int step = 0;
  bool more = false;

  __device__ WideProducer(const WideArguments& arguments, const WideRing<S>& at)
      : a(arguments), ring(at), walk(arguments) {
    more = walk.next(a);
    step = more ? walk.begin : 0;
  }
  __device__ void advance() {
    ring.advance();
    if (++step < walk.end) return;
    more = walk.next(a);
    step = walk.begin;
  }
  // Fills the ring: weights at once, x when it may be read; then each stage that all warps have left.
  __device__ void run() {
    prefetch_map(&a.x);
    prefetch_map(&a.weight);
    if constexpr (Traits::kInt4) prefetch_map(&a.scales);
    WideProducer behind = *this;
    for (int i = 0; i < S::kTile.stages && more; ++i, advance()) weights();
    wait_for_previous();
    if constexpr (S::kTile.cluster > 1) cluster_wait();  // the others' barriers are ready for what is sent there
    for (int i = 0; i < S::kTile.stages && behind.more; ++i, behind.advance()) behind.x();
    for (; more; advance()) {
      barrier_wait(ring.empty_barrier(), ring.phase ^ 1);
      weights();
      x();
    }
    if (threadIdx.x % 32 == 0) ask_ahead(a.ahead, static_cast<int>(blockIdx.x));
  }

 private:
  __device__ void weights() const {
    if (threadIdx.x % 32 != 0) return;
    const uint64_t hint = a.keep_weights ? kEvictNormal : kEvictFirst;
    const uint32_t barrier = ring.full_barrier();
    barrier_expect(barrier, S::kXBytes + S::kWeightBytes);
    if constexpr (Traits::kInt4) {
      const int chunk = step * S::kChunks, row_tile = walk.feature * S::kRowTiles;
      copy_box(ring.weights(), &a.weight, chunk * 64, row_tile, barrier, hint);
      copy_box(ring.weights() + S::kRowTiles * S::kTileBytes, &a.scales,
               (chunk >> a.group_shift) * Traits::kScaleWords * 4, row_tile, barrier, hint);
    } else {
      copy_box(ring.weights(), &a.weight, step * S::kStep, walk.feature * S::kFeatures, barrier, hint);
    }
  }
  // A team reads the same x: each of its blocks copies a part of the rows to all.
  __device__ void x() const {
    if (threadIdx.x % 32 != 0) return;
    constexpr int kRows = S::kTile.tokens / S::kTile.cluster;
    const int first = walk.rank * kRows, row = walk.token * S::kTile.tokens + first;
#pragma unroll
    for (int i = 0; i < S::kXBoxes; ++i) {
      const uint32_t to = ring.x() + i * S::kXBox + first * 128;
      const int column = step * S::kStep + i * (S::kStep / S::kXBoxes);
      if constexpr (S::kTile.cluster > 1)
        copy_box_to((1 << S::kTile.cluster) - 1, to, &a.x, column, row, ring.full_barrier(), kEvictNormal);
      else
        copy_box(to, &a.x, column, row, ring.full_barrier(), kEvictNormal);
    }
  }
};

// The A fragments of 64 x 64 out of one lane's nibbles (Int4Layout), times the group's scale: rounded once.
template <WideFormat kFormat>
__device__ __forceinline__ void expand_chunk(const uint4& nibbles, const uint32_t* scale, uint32_t (&a)[16]) {
  const uint32_t words[2][2] = {{nibbles.x, nibbles.z}, {nibbles.y, nibbles.w}};  // [row g, g + 8][half of k]
#pragma unroll
  for (int h = 0; h < 2; ++h)
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      __half2 low = __half2half2(__ushort_as_half(0xe408));   // -(1024 + 8)
      __half2 high = __half2half2(__ushort_as_half(0xd480));  // -(64 + 8)
      if constexpr (kFormat == WideFormat::w4_zeros) {
        low = __hneg2(r == 0 ? __low2half2(halves(scale[1])) : __high2half2(halves(scale[1])));
        high = __hadd2(low, __half2half2(__ushort_as_half(0x6380)));  // + 960
      }
      const __half2 by = r == 0 ? __low2half2(halves(scale[0])) : __high2half2(halves(scale[0]));
      uint32_t pair[4];
      expand_nibbles(words[r][h], low, high, pair);
#pragma unroll
      for (int i = 0; i < 4; ++i) a[(2 * h + i / 2) * 4 + i % 2 * 2 + r] = bits(__hmul2(halves(pair[i]), by));
    }
}

__device__ __forceinline__ uint4 load_shared_16(uint32_t from) {
  uint4 v;
  asm volatile("ld.shared.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "r"(from)
               : "memory");
  return v;
}
__device__ __forceinline__ uint32_t load_shared_4(uint32_t from) {
  uint32_t v;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(v) : "r"(from) : "memory");
  return v;
}

// A warp has read a stage: said to every block that writes into it.
template <int kCluster>
__device__ __forceinline__ void release_stage(uint32_t empty_barrier) {
  const int lane = threadIdx.x % 32;
  if constexpr (kCluster == 1) {
    if (lane == 0) barrier_arrive(empty_barrier);
  } else {
    if (lane < kCluster) barrier_arrive_at(empty_barrier, static_cast<uint32_t>(lane));
  }
}

// The sums of a run of steps, with the ring advanced behind it.
template <WideFormat kFormat, class S>
__device__ __forceinline__ void multiply_run(const WideArguments& a, WideRing<S>& ring,
                                             const WideWalk<S::kTile.cluster>& walk,
                                             typename S::Acc (&acc)[S::kTile.halves][S::kTile.tokens / 2]) {
  using Traits = WideTraits<kFormat>;
  constexpr int kHalves = S::kTile.halves;
  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = warp / 4;
  uint32_t release = 0;  // the barrier of the stage before, once its products have ended
  int keep = 0;
  [[maybe_unused]] uint32_t fragments[2][16] = {};  // one is read by the tensor cores while the other is made
  for (int step = walk.begin; step < walk.end; ++step, ring.advance()) {
    barrier_wait(ring.full_barrier(), ring.phase);
    if constexpr (Traits::kInt4) {
      const uint32_t nibbles = ring.weights() + (group * kHalves * 4 + warp % 4) * S::kTileBytes + lane * 16;
      const uint32_t scales = ring.weights() + S::kRowTiles * S::kTileBytes +
                              (group * kHalves * 4 + warp % 4) * S::kScaleBytes + lane / 4 * (Traits::kScaleWords * 4);
      const uint32_t second = a.group_shift == 0 ? Traits::kScaleWords * 32 : 0;  // groups of 64: the next one's scales
      constexpr int kUnits = S::kUnits;
      uint4 codes[kUnits];  // all of the stage's at once: their latency shows once
      uint32_t scale[kUnits][Traits::kScaleWords];
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        const int c = u / kHalves, h = u % kHalves;
        codes[u] = load_shared_16(nibbles + h * 4 * S::kTileBytes + c * 512);
#pragma unroll
        for (int i = 0; i < Traits::kScaleWords; ++i)
          scale[u][i] = load_shared_4(scales + h * 4 * S::kScaleBytes + (c == 1 ? second : 0) + i * 4);
      }
#pragma unroll
      for (int u = 0; u < kUnits; ++u) {
        const int c = u / kHalves, h = u % kHalves;
        uint32_t(&mine)[16] = fragments[u % 2];
        expand_chunk<kFormat>(codes[u], scale[u], mine);
        const uint64_t x = operand(ring.x() + c * S::kXBox);
        pin(acc[h]);
        wgmma_fence();
#pragma unroll
        for (int i = 0; i < 4; ++i) wgmma_f16(acc[h], mine + 4 * i, x + 2 * i, c == 0 && i == 0 ? keep : 1);
        wgmma_commit();
        pin(acc[h]);
        wgmma_wait<1>();
        hold(fragments[(u + 1) % 2]);
        if (u == 0 && release != 0) release_stage<S::kTile.cluster>(release);
      }
    } else {
      const uint64_t x = operand(ring.x()), w = operand(ring.weights() + group * kHalves * 8192);
#pragma unroll
      for (int h = 0; h < kHalves; ++h) pin(acc[h]);
      wgmma_fence();
#pragma unroll
      for (int h = 0; h < kHalves; ++h)
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          if constexpr (kFormat == WideFormat::int8) {
            wgmma_s8(acc[h], w + h * 512 + 2 * i, x + 2 * i, i == 0 ? keep : 1);
          } else if constexpr (kFormat == WideFormat::f16) {
            wgmma_f16(acc[h], w + h * 512 + 2 * i, x + 2 * i, i == 0 ? keep : 1);
          } else {
            wgmma_e4m3(acc[h], w + h * 512 + 2 * i, x + 2 * i, i == 0 ? keep : 1);
          }
        }
      wgmma_commit();
#pragma unroll
      for (int h = 0; h < kHalves; ++h) pin(acc[h]);
      wgmma_wait<1>();
      if (release != 0) release_stage<S::kTile.cluster>(release);
    }
    keep = 1;
    release = ring.empty_barrier();
  }
  wgmma_wait<0>();
#pragma unroll
  for (int h = 0; h < kHalves; ++h) pin(acc[h]);
  release_stage<S::kTile.cluster>(release);
}

// Of a tile that several teams share: leaves this block's sums for whoever is last; true for that one, with all sums
// added in the order of k. Blocks of the same rank meet; those of a team have nothing to do with each other here.
template <class S>
__device__ __forceinline__ bool share_tile(const WideArguments& a, const WideWalk<S::kTile.cluster>& walk, int* last,
                                           typename S::Acc (&acc)[S::kTile.halves][S::kTile.tokens / 2]) {
  constexpr int kVectors = S::kTile.tokens / 8;  // of four sums, a half
  constexpr int64_t kSlot = int64_t{S::kTile.halves} * kVectors * S::kConsumers;
  using Acc = typename S::Acc;
  struct alignas(16) Four {
    Acc v[4];
  };
  const int first_step = walk.split_tile * a.steps;
  using Walk = WideWalk<S::kTile.cluster>;
  const int first = Walk::owner(a, first_step), end = Walk::owner(a, first_step + a.steps - 1) + 1;
  int* ticket = &a.tickets[walk.split_tile * S::kTile.cluster + walk.rank];
  Four* slots = reinterpret_cast<Four*>(a.partials) + threadIdx.x;
  Four* mine = slots + (2 * static_cast<int>(blockIdx.x) + (walk.begin == 0)) * kSlot;
#pragma unroll
  for (int h = 0; h < S::kTile.halves; ++h)
#pragma unroll
    for (int i = 0; i < kVectors; ++i)
      mine[(h * kVectors + i) * S::kConsumers] = {acc[h][4 * i], acc[h][4 * i + 1], acc[h][4 * i + 2],
                                                  acc[h][4 * i + 3]};
  barrier(1, S::kConsumers);
  if (threadIdx.x == 0) *last = arrive(ticket) == end - first - 1;
  barrier(1, S::kConsumers);
  const bool is_last = *last != 0;
  if (!is_last) return false;
  if (threadIdx.x == 0) *ticket = 0;
#pragma unroll
  for (int h = 0; h < S::kTile.halves; ++h)
#pragma unroll
    for (int i = 0; i < kVectors * 4; ++i) acc[h][i] = 0;
  for (int team = first; team < end; ++team) {
    const Four* from = slots + (2 * (team * S::kTile.cluster + walk.rank) + (team == first)) * kSlot;
#pragma unroll
    for (int h = 0; h < S::kTile.halves; ++h)
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        const int4 bits_of = __ldcg(reinterpret_cast<const int4*>(from + (h * kVectors + i) * S::kConsumers));
        const Four four = *reinterpret_cast<const Four*>(&bits_of);
#pragma unroll
        for (int j = 0; j < 4; ++j) acc[h][4 * i + j] += four.v[j];
      }
  }
  return true;
}

// Of rows that alternate between 8 of a gate and 8 of its up, 64 for 32 tokens: silu(gate) * up in the form of a.gate,
// 32 columns of y. A lane has gate row g in value[j][0..1] and its up in value[j][2..3], of tokens 8 j + 2 t and the
// one after. first: the rows' first; tokens: how many of the 32 there are.
__device__ __forceinline__ void store_gated(const WideArguments& a, int first, int token0, int tokens, char* store,
                                            const float (&value)[4][4]) {
  const int thread = threadIdx.x % 128, group = threadIdx.x / 128, lane = thread % 32, warp = thread / 32;
  const int g = lane / 4, t = lane % 4, width = a.n / 2, column = first / 2 + warp * 8 + g;
  const float by = a.gate_prequant && column < width ? a.gate_prequant[column] : 1.0f;
  const auto gated = [&](int j, int e) {  // the same roundings as a product in f16 and silu_mul after it
    const float y =
        silu_times(__half2float(__float2half_rn(value[j][e])), __half2float(__float2half_rn(value[j][e + 2])));
    return a.gate_prequant ? y * by : y;
  };
  if (a.gate == GateForm::f16) {
    uint32_t pairs[4];
#pragma unroll
    for (int j = 0; j < 4; ++j) pairs[j] = bits(__floats2half2_rn(gated(j, 0), gated(j, 1)));
    store_transposed(shared_address(store) + lane * kStorePitch + warp * 16, pairs[0], pairs[1], pairs[2], pairs[3]);
  } else {
#pragma unroll
    for (int j = 0; j < 4; ++j)
#pragma unroll
      for (int e = 0; e < 2; ++e) {
        const float y = gated(j, e);
        store[(8 * j + 2 * t + e) * kStorePitch + warp * 8 + g] =
            static_cast<char>(a.gate == GateForm::fp8 ? quantize<ActivationForm::fp8>(y, a.gate_inverse)
                                                      : quantize<ActivationForm::int8>(y, a.gate_inverse));
      }
  }
  barrier(2 + group, 128);
  const int token = thread / 4, at = thread % 4 * 8;
  if (token < tokens && first / 2 + at < width) {
    const int64_t to = static_cast<int64_t>(token0 + token) * width + first / 2 + at;
    if (a.gate == GateForm::f16)
      *reinterpret_cast<uint4*>(static_cast<__half*>(a.y) + to) =
          *reinterpret_cast<const uint4*>(store + token * kStorePitch + at * 2);
    else
      *reinterpret_cast<uint2*>(static_cast<uint8_t*>(a.y) + to) =
          *reinterpret_cast<const uint2*>(store + token * kStorePitch + at);
  }
}

// Scales, rounds and writes a tile.
template <class S>
__device__ __forceinline__ void store_tile(const WideArguments& a, const WideWalk<S::kTile.cluster>& walk, char* store,
                                           float* factors,
                                           const typename S::Acc (&acc)[S::kTile.halves][S::kTile.tokens / 2]) {
  const int thread = threadIdx.x % 128, group = threadIdx.x / 128, lane = thread % 32, warp = thread / 32;
  const int g = lane / 4, t = lane % 4;
  const int token0 = walk.token * S::kTile.tokens;
  const int feature0 = walk.feature * S::kFeatures + group * S::kTile.halves * 64;
  const int corner = (lane / 16 * 8 + lane % 8) * kStorePitch + warp * 32 + lane / 8 % 2 * 16;  // of what a lane stores
  int place = 0;
  // A place is written again one barrier after it was read: with a single one, that barrier has to be here.
  const auto next_place = [&] {
    if constexpr (S::kStorePlaces == 1)
      barrier(2 + group, 128);
    else
      place ^= 1;
  };
  barrier(2 + group, 128);  // the tile before has been read
  for (int i = thread; i < S::kTile.tokens; i += 128)
    factors[i] = a.row_scales && token0 + i < a.m ? __ldcg(a.row_scales + token0 + i) * a.scale : a.scale;
  barrier(2 + group, 128);
#pragma unroll
  for (int h = 0; h < S::kTile.halves; ++h) {
    float channel[2] = {1, 1};
    const int feature = feature0 + h * 64 + warp * 16 + g;
    if (a.channel_scales)
      for (int r = 0; r < 2; ++r) channel[r] = feature + 8 * r < a.n ? a.channel_scales[feature + 8 * r] : 0.0f;
#pragma unroll
    for (int part = 0; part < S::kTile.tokens; part += kStoreTokens) {
      if (token0 + part >= a.m) break;
      float value[4][4];
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        const float2 factor = *reinterpret_cast<const float2*>(factors + part + 8 * j + 2 * t);
#pragma unroll
        for (int e = 0; e < 4; ++e)
          value[j][e] =
              static_cast<float>(acc[h][part / 2 + 4 * j + e]) * ((e % 2 == 0 ? factor.x : factor.y) * channel[e / 2]);
      }
      if (a.gate != GateForm::none) {
        store_gated(a, feature0 + h * 64, token0 + part, a.m - token0 - part, store + place * kStorePlaceBytes, value);
        next_place();
        continue;
      }
      if (a.y_f32) {
#pragma unroll
        for (int j = 0; j < 4; ++j)
#pragma unroll
          for (int e = 0; e < 4; ++e) {
            const int token = token0 + part + 8 * j + 2 * t + e % 2, row = feature + e / 2 * 8;
            if (token < a.m && row < a.n)
              static_cast<float*>(a.y)[static_cast<int64_t>(token) * a.n + row] = value[j][e];
          }
        continue;
      }
      const char* mine = store + place * kStorePlaceBytes;
      const uint32_t to = shared_address(mine) + corner;
#pragma unroll
      for (int j = 0; j < 4; j += 2)
        store_transposed(to + j * 8 * kStorePitch, bits(__floats2half2_rn(value[j][0], value[j][1])),
                         bits(__floats2half2_rn(value[j][2], value[j][3])),
                         bits(__floats2half2_rn(value[j + 1][0], value[j + 1][1])),
                         bits(__floats2half2_rn(value[j + 1][2], value[j + 1][3])));
      barrier(2 + group, 128);
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const int token = i * 16 + thread / 8, column = feature0 + h * 64 + thread % 8 * 8;
        if (token0 + part + token < a.m && column < a.n)
          *reinterpret_cast<uint4*>(static_cast<__half*>(a.y) + static_cast<int64_t>(token0 + part + token) * a.n +
                                    column) =
              *reinterpret_cast<const uint4*>(mine + token * kStorePitch + thread % 8 * 16);
      }
      next_place();
    }
  }
}

// A block's shared memory must last until the others of its team have sent all they send there.
__device__ __forceinline__ void leave_cluster() {
  cluster_arrive();
  cluster_wait();
}

template <WideFormat kFormat, class S>
__global__ void __launch_bounds__(S::kTile.threads(), S::kTile.blocks) wide(const __grid_constant__ WideArguments a) {
#ifdef QG_SM90A
  extern __shared__ char raw[];
  char* ring_base = raw + (1024 - shared_address(raw) % 1024) % 1024;
  char* tail = ring_base + S::kTile.stages * S::kStageBytes;
  float* factors = reinterpret_cast<float*>(tail + S::kTile.groups * S::kStoreBytes);
  char* barriers = tail + S::kTile.groups * (S::kStoreBytes + S::kTile.tokens * 4);
  int* last = reinterpret_cast<int*>(barriers + 2 * S::kTile.stages * 8);
  let_next_start();

  WideRing<S> ring;
  ring.base = shared_address(ring_base);
  ring.full = shared_address(barriers);
  ring.empty = ring.full + S::kTile.stages * 8;
  if (threadIdx.x == 0) {
    for (int i = 0; i < S::kTile.stages; ++i) {
      barrier_init(ring.full + i * 8, 1);
      barrier_init(ring.empty + i * 8, S::kConsumers / 32 * S::kTile.cluster);
    }
    barrier_init_fence();
  }
  __syncthreads();
  if constexpr (S::kTile.cluster > 1) cluster_arrive();
  if (threadIdx.x >= S::kConsumers) {
    if constexpr (S::kTile.trades_registers()) give_registers<kProducerRegisters>();
    if (threadIdx.x < S::kConsumers + 32)
      WideProducer<kFormat, S>(a, ring).run();
    else if constexpr (S::kTile.cluster > 1)
      cluster_wait();
    if constexpr (S::kTile.cluster > 1) leave_cluster();
    return;
  }
  if constexpr (S::kTile.trades_registers()) take_registers<kConsumerRegisters>();
  wait_for_previous();
  if constexpr (S::kTile.cluster > 1) cluster_wait();
  const int group = threadIdx.x / 128;
  WideWalk<S::kTile.cluster> walk(a);
  while (walk.next(a)) {
    typename S::Acc acc[S::kTile.halves][S::kTile.tokens / 2];
    multiply_run<kFormat, S>(a, ring, walk, acc);
    const bool whole = walk.begin == 0 && walk.end == a.steps;
    if (whole || share_tile<S>(a, walk, last, acc))
      store_tile<S>(a, walk, tail + group * S::kStoreBytes, factors + group * S::kTile.tokens, acc);
  }
  if constexpr (S::kTile.cluster > 1) leave_cluster();
#else
  __trap();  // never chosen on such a card
#endif
}

template <WideFormat kFormat, int kTokens, int kGroups, int kHalves, int kStages, int kBlocks, int kCluster = 1>
WideKernel wide_kernel() {
  using S = WideShape<kFormat, kTokens, kGroups, kHalves, kStages, kBlocks, kCluster>;
  static_assert(S::kSharedBytes <= 233472 / kBlocks - 1024, "shared memory of a multiprocessor");
  return {S::kTile, S::kSharedBytes, wide<kFormat, S>};
}

}  // namespace qg::device
