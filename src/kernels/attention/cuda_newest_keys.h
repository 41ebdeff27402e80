#pragma once
// The blocks of a decode kernel that shape the newest keys of a KV head (docs/kv-cache-notes.md), store them and send
// them to the blocks that attend to them, which meanwhile read older tokens: a key's feedback is a chain of 128 steps
// that takes longer than most of what the other blocks do. Device code only.
#include "kernels/attention/cuda_newest.h"
#include "kernels/kvcache/cuda_shaped_key.h"

namespace qg::attention {

template <int kHeadDim>
struct KeyMemory {
  __half transform[kHeadDim * kHeadDim], feedback[kHeadDim * kHeadDim];
  float4 next[kHeadDim];
  float key[kMostKeysPerBlock][kHeadDim], shaped[kMostKeysPerBlock][kHeadDim];
};

// Warp w has the key of piece `first + w`; a lane below kHeadDim / 8 four elements of each half of it.
template <int kHeadDim, KvFormat kFormat>
__device__ __forceinline__ void shape_newest_keys(const DecodeArguments& args, std::byte* memory) {
  static_assert(sizeof(KeyMemory<kHeadDim>) <= kSharedBytes && kMostKeysPerBlock <= kWarps);
  constexpr int kLanes = kHeadDim / 8, kHalf = kHeadDim / 2, kCount = kHeadDim / 32;
  if (blockIdx.x != 0 || blockIdx.y % args.head_tiles != 0) return;
  auto& shared = *reinterpret_cast<KeyMemory<kHeadDim>*>(memory);
  const Inputs& in = args.in;
  const NewTokens& newest = args.newest;
  const int thread = threadIdx.x, warp = thread / 32, lane = thread % 32, kv_head = blockIdx.y / args.head_tiles;
  const int64_t matrix = static_cast<int64_t>(kv_head) * kHeadDim * kHeadDim;
  kvcache::copy_matrix<kHeadDim, false, kThreads>(shared.transform, newest.shaping.k_transform + matrix, thread);
  kvcache::copy_matrix<kHeadDim, false, kThreads>(shared.feedback, newest.shaping.k_feedback + matrix, thread);
  if (thread < kHeadDim)
    shared.next[thread] = kvcache::next_three<kHeadDim>(newest.shaping.k_feedback + matrix, thread);

  const int pieces = gridDim.z - newest.key_layers, piece = blockIdx.z * newest.keys_per_block + warp;
  const bool taken = warp < newest.keys_per_block && piece < pieces;
  const int position = taken ? in.batch.kv_tokens[piece] - 1 : -1;  // -1: padding
  const bool loads = position >= 0 && lane < kLanes;
  float angles[8] = {}, center[8] = {};  // (cos, sin) of four pairs; of their first elements, then of their second
  std::byte* cell = nullptr;
  if (loads) {
    const auto* of_row = newest.rope_table + static_cast<int64_t>(position) * kHalf + 4 * lane;
    const float* of_head = newest.shaping.k_center + kv_head * kHeadDim + 4 * lane;
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      angles[2 * i] = of_row[i].x, angles[2 * i + 1] = of_row[i].y;
      center[i] = of_head[i], center[i + 4] = of_head[i + kHalf];
    }
  }
  if (position >= 0) {
    const int64_t page =
        in.batch.page_table[static_cast<int64_t>(piece) * in.batch.max_pages + (position >> in.page_shift)];
    const int slot = position & ((1 << in.page_shift) - 1);
    cell = newest.pool + (((page * 2 * in.kv_heads + kv_head) << in.page_shift) + slot) * kHeadDim + kCount * lane;
  }
  wait_for_previous();
  if (lane < kLanes) {
    float4 z[2] = {};
    if (loads) {
      const __half* from = newest.qkv.rows + piece * newest.qkv.stride + (in.heads + kv_head) * kHeadDim + 4 * lane;
      const uint2 low = __ldcg(reinterpret_cast<const uint2*>(from));
      const uint2 high = __ldcg(reinterpret_cast<const uint2*>(from + kHalf));
      const float2 first[2] = {kvcache::two_floats(low.x), kvcache::two_floats(low.y)};
      const float2 second[2] = {kvcache::two_floats(high.x), kvcache::two_floats(high.y)};
      float a[4] = {first[0].x, first[0].y, first[1].x, first[1].y};
      float b[4] = {second[0].x, second[0].y, second[1].x, second[1].y};
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        kvcache::rotate_pair(angles[2 * i], angles[2 * i + 1], a[i], b[i]);
        a[i] = __fsub_rn(a[i], center[i]);
        b[i] = __fsub_rn(b[i], center[i + 4]);
      }
      z[0] = {a[0], a[1], a[2], a[3]}, z[1] = {b[0], b[1], b[2], b[3]};
    }
    *reinterpret_cast<float4*>(&shared.key[warp][4 * lane]) = z[0];
    *reinterpret_cast<float4*>(&shared.key[warp][4 * lane + kHalf]) = z[1];
  }
  wait_for_copies<0>();
  __syncthreads();
  const int element = thread % kHeadDim;
  if (newest.keys_per_block == 1) {
    if (thread < kHeadDim)
      kvcache::transform_keys<kHeadDim, 1>(shared.transform, shared.key, shared.shaped, element, newest.k_multiplier);
  } else {
    constexpr int kEach = kMostKeysPerBlock / (kThreads / kHeadDim);
    const int row = thread / kHeadDim * kEach;
    kvcache::transform_keys<kHeadDim, kEach>(shared.transform, shared.key + row, shared.shaped + row, element,
                                             newest.k_multiplier);
  }
  __syncthreads();
  if (cell == nullptr) return;
  float t[kCount];
#pragma unroll
  for (int i = 0; i < kCount; ++i) t[i] = shared.shaped[warp][kCount * lane + i];
  kvcache::feed_errors_back<kHeadDim, kFormat>(t, shared.feedback, shared.next, lane);
  const uint32_t codes = kvcache::key_codes<kHeadDim, kFormat>(t);
  const int64_t unit = static_cast<int64_t>(piece) * gridDim.y + blockIdx.y;
  for (int tile = 0; tile < args.head_tiles; ++tile) send(newest.mail + (unit + tile) * 32 + lane, codes);
  kvcache::store_key_codes<kHeadDim>(cell, codes);
}

}  // namespace qg::attention
