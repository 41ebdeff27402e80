#pragma once
// Of the kernel of cuda_wide.h: what becomes of a run's sums.
#include "kernels/linear/wide_shape.cuh"
#include "kernels/pointwise/quantize.cuh"
#include "kernels/pointwise/silu.cuh"

namespace qg::device {

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

}  // namespace qg::device
