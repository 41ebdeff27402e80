#pragma once
// Of the kernel of cuda_wide.h: its sizes, what a block does one after the other, the ring of stages.
#include "kernels/linear/cuda_wide.h"
#include "kernels/linear/mma.cuh"
#include "kernels/linear/wgmma.cuh"

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

}  // namespace qg::device
