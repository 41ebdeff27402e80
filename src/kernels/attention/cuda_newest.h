#pragma once
// What a decode block does that finds queries and the newest token in the QKV product's row: RoPE, the transform of the
// queries of a shaped cache, the newest token into its page and into the block's own ring. Operations and roundings are
// those of rope_and_append, so that the bytes are too. Device code only.
#include <type_traits>

#include "kernels/attention/cuda_decode_tile.h"
#include "kernels/kvcache/cuda_rotate.h"

namespace qg::attention {

// First of two neighbouring elements of a query head that a lane has in word `half` of tile i: fours, four in a row
// (what load_query takes for 8-bit K); else as the fragments of an f16 product have them.
template <bool kFours>
__device__ __forceinline__ int pair_at(int i, int half, int lane) {
  return 16 * i + (kFours ? lane % 4 * 4 + 2 * half : lane % 4 * 2 + 8 * half);
}

// (cos, sin) of the pairs that a lane rotates: elements of the first half of a head, with those of the second.
template <int kHeadDim, bool kFours>
struct QueryAngles {
  float4 of[kHeadDim / 32][2];
  __device__ __forceinline__ void load(const float2* row, int lane) {
#pragma unroll
    for (int i = 0; i < kHeadDim / 32; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        of[i][half] = *reinterpret_cast<const float4*>(row + pair_at<kFours>(i, half, lane));
  }
};

template <int kHeadDim, bool kFours>
__device__ __forceinline__ void read_query(const __half* head, bool exists, int lane,
                                           uint32_t (&words)[kHeadDim / 16][2]) {
#pragma unroll
  for (int i = 0; i < kHeadDim / 16; ++i) {
    words[i][0] = words[i][1] = 0;
    if (!exists) continue;
    if constexpr (kFours) {
      const uint2 two = __ldcg(reinterpret_cast<const uint2*>(head + pair_at<true>(i, 0, lane)));
      words[i][0] = two.x, words[i][1] = two.y;
    } else {
#pragma unroll
      for (int half = 0; half < 2; ++half)
        words[i][half] = __ldcg(reinterpret_cast<const uint32_t*>(head + pair_at<false>(i, half, lane)));
    }
  }
}

// RoPE, and back to f16 as the append kernel rounds.
template <int kHeadDim, bool kFours>
__device__ __forceinline__ void rotate_query(const QueryAngles<kHeadDim, kFours>& angles,
                                             uint32_t (&words)[kHeadDim / 16][2]) {
  constexpr int kTiles = kHeadDim / 32;
#pragma unroll
  for (int i = 0; i < kTiles; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      float2 a = kvcache::two_floats(words[i][half]), b = kvcache::two_floats(words[i + kTiles][half]);
      const float4 angle = angles.of[i][half];
      kvcache::rotate_pair(angle.x, angle.y, a.x, b.x);
      kvcache::rotate_pair(angle.z, angle.w, a.y, b.y);
      words[i][half] = kvcache::two_halves(a.x, a.y);
      words[i + kTiles][half] = kvcache::two_halves(b.x, b.y);
    }
  }
}

// A warp's 32 columns of a KV head's q_transform, in registers. Column 8 t + 2 w + b of the strip (t = lane mod 4) is
// column 2 t + b of the tensor core's tile w: a lane then reads 16 bytes at a time and has eight neighbouring results.
template <int kHeadDim>
struct QueryMatrix {
  uint4 lines[kHeadDim / 16][2];
  __device__ __forceinline__ void load(const __half* matrix, int warp, int lane) {
    const __half* from = matrix + lane / 4 * kHeadDim + 32 * warp + lane % 4 * 8;
#pragma unroll
    for (int i = 0; i < kHeadDim / 16; ++i) {
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        uint4& line = lines[i][half];
        // Not .nc, which ptxas moves behind the wait for the kernel before.
        asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                     : "=r"(line.x), "=r"(line.y), "=r"(line.z), "=r"(line.w)
                     : "l"(from + (16 * i + 8 * half) * kHeadDim));
      }
    }
  }
  // words: the tile's eight queries; results to the strip of `to`, row = head.
  __device__ __forceinline__ void multiply(const uint32_t (&words)[kHeadDim / 16][2], int warp, int lane,
                                           __half (*to)[kHeadDim + 8]) const {
    float c[4][4] = {};
#pragma unroll
    for (int i = 0; i < kHeadDim / 16; ++i) {
      const uint32_t a[4] = {words[i][0], 0, words[i][1], 0};
      const uint32_t low[4] = {lines[i][0].x, lines[i][0].y, lines[i][0].z, lines[i][0].w};
      const uint32_t high[4] = {lines[i][1].x, lines[i][1].y, lines[i][1].z, lines[i][1].w};
#pragma unroll
      for (int w = 0; w < 4; ++w) multiply_add(c[w], a, transpose_matrix(low[w]), transpose_matrix(high[w]));
    }
    *reinterpret_cast<uint4*>(&to[lane / 4][32 * warp + lane % 4 * 8]) = {
        pack_half2(c[0][0], c[0][1]), pack_half2(c[1][0], c[1][1]), pack_half2(c[2][0], c[2][1]),
        pack_half2(c[3][0], c[3][1])};
  }
};

// A block's queries, up to kHeadTile heads of one KV head, as load_query gives them.
template <int kHeadDim, class S, Newest kNewest>
struct Queries {
  static constexpr bool kFours = S::kEightBit && kNewest == Newest::plain;
  QueryAngles<kHeadDim, kFours> angles;
  QueryMatrix<kHeadDim> matrix;

  // What does not depend on the kernel before this one.
  __device__ __forceinline__ void prepare(const DecodeArguments& args, int kv_head, int position, int warp, int lane) {
    angles.load(args.newest.rope_table + static_cast<int64_t>(max(position, 0)) * (kHeadDim / 2), lane);
    if constexpr (kNewest == Newest::shaped) {
      const __half* of_head = args.newest.shaping.q_transform + static_cast<int64_t>(kv_head) * kHeadDim * kHeadDim;
      if (warp < kHeadDim / 32) matrix.load(of_head, warp, lane);
    }
  }
  // head: the lane's, lane / 4. By all warps of the block; memory: 16-byte aligned shared memory, free before and
  // after, used for shaped queries.
  __device__ __forceinline__ void get(const __half* head, bool exists, int warp, int lane, std::byte* memory,
                                      uint32_t (&q)[kHeadDim / 16][2]) const {
    uint32_t words[kHeadDim / 16][2];
    read_query<kHeadDim, kFours>(head, exists, lane, words);
    rotate_query(angles, words);
    if constexpr (kNewest == Newest::shaped) {
      auto* shaped = reinterpret_cast<__half(*)[kHeadDim + 8]>(memory);
      if (warp < kHeadDim / 32) matrix.multiply(words, warp, lane, shaped);
      __syncthreads();
      load_query<kHeadDim, S>(shaped[lane / 4], exists, lane, q);
      __syncthreads();
    } else {
#pragma unroll
      for (int i = 0; i < kHeadDim / 16; ++i) arrange_query<S>(words[i][0], words[i][1], q[i]);
    }
  }
};

__device__ __forceinline__ void store_shared(uint32_t to, uint32_t x) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(to), "r"(x) : "memory");
}
__device__ __forceinline__ void store_shared(uint32_t to, uint2 x) {
  asm volatile("st.shared.v2.u32 [%0], {%1, %2};" ::"r"(to), "r"(x.x), "r"(x.y) : "memory");
}
__device__ __forceinline__ void store_shared(uint32_t to, uint16_t x) {
  asm volatile("st.shared.u16 [%0], %1;" ::"r"(to), "h"(x) : "memory");
}

// The word that a block of this grid has sent, or will, and the mailbox empty again. Those that send come first in the
// grid and wait for nobody in it, so the word comes.
__device__ __forceinline__ uint32_t receive(uint64_t* mail) {
  uint64_t word;
  do {
    asm volatile("ld.relaxed.gpu.global.u64 %0, [%1];" : "=l"(word) : "l"(mail) : "memory");
  } while (word == 0);
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(mail), "l"(uint64_t{0}) : "memory");
  return static_cast<uint32_t>(word);
}
__device__ __forceinline__ void send(uint64_t* mail, uint32_t codes) {
  asm volatile("st.relaxed.gpu.global.u64 [%0], %1;" ::"l"(mail), "l"(uint64_t{1} << 32 | codes) : "memory");
}

// Key and value of a KV head's newest token, by a warp: kLanes lanes have the key and the next kLanes the value, four
// elements of the first half of the head each and the four that they are paired with. Shaped keys come by mail.
template <int kHeadDim, KvFormat kFormat, Newest kNewest>
struct NewestToken {
  static constexpr int kLanes = kHeadDim / 8, kHalf = kHeadDim / 2;
  static constexpr int kElementBytes = kFormat == KvFormat::fp16 ? 2 : 1;
  static constexpr int kRowBytes = kHeadDim * kElementBytes;
  using Codes = std::conditional_t<kFormat == KvFormat::fp16, uint2, uint32_t>;
  bool active = false, is_value = false;
  int column = 0;
  const __half* from = nullptr;
  std::byte* cell = nullptr;  // null: another block of the same KV head stores it
  float4 angles[2] = {};
  uint2 bits[2] = {};
  Codes low = {}, high = {};

  __device__ __forceinline__ void prepare(const DecodeArguments& args, const int32_t* pages, int piece, int kv_head,
                                          int position, bool stores, int lane) {
    const Inputs& in = args.in;
    is_value = lane / kLanes == 1;
    active = is_value || (lane < kLanes && kNewest == Newest::plain);
    column = lane % kLanes * 4;
    from = args.newest.qkv.rows + piece * args.newest.qkv.stride +
           (in.heads + (is_value ? in.kv_heads : 0) + kv_head) * kHeadDim + column;
    if (!active) return;
    if (stores) {
      const int64_t head_bytes = static_cast<int64_t>(kRowBytes) << in.page_shift;
      const int64_t page = pages[position >> in.page_shift];
      const int64_t head = page * 2 * in.kv_heads + (is_value ? in.kv_heads : 0) + kv_head;
      const int slot = position & ((1 << in.page_shift) - 1);
      cell = args.newest.pool + head * head_bytes + slot * kRowBytes + column * kElementBytes;
    }
    if (is_value) return;
    const auto* of_column = args.newest.rope_table + static_cast<int64_t>(position) * kHalf + column;
    angles[0] = reinterpret_cast<const float4*>(of_column)[0];
    angles[1] = reinterpret_cast<const float4*>(of_column)[1];
  }

  // After the kernel before this one.
  __device__ __forceinline__ void read() {
    if (!active) return;
    bits[0] = __ldcg(reinterpret_cast<const uint2*>(from));
    bits[1] = __ldcg(reinterpret_cast<const uint2*>(from + kHalf));
  }
  __device__ __forceinline__ void encode(const NewTokens& newest) {
    if (!active) return;
    float a[4], b[4];
    unpack(bits[0], a);
    unpack(bits[1], b);
    if (!is_value) {
      kvcache::rotate_pair(angles[0].x, angles[0].y, a[0], b[0]);
      kvcache::rotate_pair(angles[0].z, angles[0].w, a[1], b[1]);
      kvcache::rotate_pair(angles[1].x, angles[1].y, a[2], b[2]);
      kvcache::rotate_pair(angles[1].z, angles[1].w, a[3], b[3]);
    }
    const float multiplier = is_value ? newest.v_multiplier : newest.k_multiplier;
    low = codes(a, multiplier);
    high = codes(b, multiplier);
    if (cell == nullptr) return;
    *reinterpret_cast<Codes*>(cell) = low;
    *reinterpret_cast<Codes*>(cell + kHalf * kElementBytes) = high;
  }

  // Into row `row` of a stage whose copies have arrived; mail: the lane's box, null unless keys are shaped.
  __device__ __forceinline__ void put(uint32_t stage, int row, uint64_t* mail, int lane) const {
    const auto at = [&](uint32_t base, int byte) { return base + swizzled<kRowBytes>(row, byte / 16) + byte % 16; };
    if (active) {
      const uint32_t base = stage + (is_value ? kHalfStageBytes : 0);
      store_shared(at(base, column * kElementBytes), low);
      store_shared(at(base, (column + kHalf) * kElementBytes), high);
    }
    if constexpr (kNewest == Newest::shaped) {
      const uint32_t key = receive(mail);
      if constexpr (kHeadDim == 128)
        store_shared(at(stage, 4 * lane), key);
      else
        store_shared(at(stage, 2 * lane), static_cast<uint16_t>(key));
    }
    __syncwarp();
  }

 private:
  static __device__ __forceinline__ void unpack(uint2 bits, float (&x)[4]) {
    const float2 two = kvcache::two_floats(bits.x), next = kvcache::two_floats(bits.y);
    x[0] = two.x, x[1] = two.y, x[2] = next.x, x[3] = next.y;
  }
  static __device__ __forceinline__ Codes codes(const float (&x)[4], float multiplier) {
    if constexpr (kFormat == KvFormat::fp16)
      return {kvcache::two_halves(x[0], x[1]), kvcache::two_halves(x[2], x[3])};
    else
      return kvcache::four_codes<kFormat>(__fmul_rn(x[0], multiplier), __fmul_rn(x[1], multiplier),
                                          __fmul_rn(x[2], multiplier), __fmul_rn(x[3], multiplier));
  }
};

}  // namespace qg::attention
