#pragma once
// What the append kernels share: eight elements at a time from rows of f16, RoPE, and the cache's codes. Arithmetic is
// what rope() and kv_encode() do on the CPU, operation by operation, so the stored bytes are equal. Device code only.
#include <cuda_fp8.h>

#include "kernels/kvcache/cuda_kernels.h"

namespace qg::kvcache {

__device__ __forceinline__ float2 two_floats(uint32_t halves) {
  return __half22float2(*reinterpret_cast<const __half2*>(&halves));
}

__device__ __forceinline__ uint32_t two_halves(float low, float high) {
  const __half2 h = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&h);
}

__device__ __forceinline__ void unpack_eight(uint4 bits, float (&x)[8]) {
  const uint32_t words[4] = {bits.x, bits.y, bits.z, bits.w};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 two = two_floats(words[i]);
    x[2 * i] = two.x, x[2 * i + 1] = two.y;
  }
}

__device__ __forceinline__ uint4 pack_eight(const float (&x)[8]) {
  return {two_halves(x[0], x[1]), two_halves(x[2], x[3]), two_halves(x[4], x[5]), two_halves(x[6], x[7])};
}

// What the QKV product left is read once: it need not stay in the L2 cache.
__device__ __forceinline__ uint4 read_once(const __half* from) {
  return __ldcs(reinterpret_cast<const uint4*>(from));
}

// The pair of elements (x, y); no fused multiply-add: the reference rounds each product.
__device__ __forceinline__ void rotate_pair(float cosine, float sine, float& x, float& y) {
  const float first = __fsub_rn(__fmul_rn(x, cosine), __fmul_rn(y, sine));
  y = __fadd_rn(__fmul_rn(y, cosine), __fmul_rn(x, sine));
  x = first;
}

struct Angles {
  float4 two[4];  // (cos, sin) of two pairs each
};

__device__ __forceinline__ Angles read_angles(const float2* from) {
  const auto* two = reinterpret_cast<const float4*>(from);
  return {{two[0], two[1], two[2], two[3]}};
}

__device__ __forceinline__ void rotate_eight(const Angles& angles, float (&a)[8], float (&b)[8]) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    rotate_pair(angles.two[i].x, angles.two[i].y, a[2 * i], b[2 * i]);
    rotate_pair(angles.two[i].z, angles.two[i].w, a[2 * i + 1], b[2 * i + 1]);
  }
}

// Codes of four numbers that are divided by the scale already.
template <KvFormat kFormat>
__device__ __forceinline__ uint32_t four_codes(float a, float b, float c, float d) {
  if constexpr (kFormat == KvFormat::fp8) {
    const uint32_t low = __nv_cvt_float2_to_fp8x2({a, b}, __NV_SATFINITE, __NV_E4M3);
    return low | static_cast<uint32_t>(__nv_cvt_float2_to_fp8x2({c, d}, __NV_SATFINITE, __NV_E4M3)) << 16;
  } else {
    const auto code = [](float x) {
      return static_cast<uint32_t>(__float2int_rn(fmaxf(fminf(x, 127.0f), -127.0f))) & 0xffu;
    };
    return code(a) | code(b) << 8 | code(c) << 16 | code(d) << 24;
  }
}

template <KvFormat kFormat>
__device__ __forceinline__ void store_eight(std::byte* to, const float (&x)[8], float multiplier) {
  if constexpr (kFormat == KvFormat::fp16) {
    *reinterpret_cast<uint4*>(to) = pack_eight(x);
  } else {
    float y[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) y[i] = __fmul_rn(x[i], multiplier);
    *reinterpret_cast<uint2*>(to) = {four_codes<kFormat>(y[0], y[1], y[2], y[3]),
                                     four_codes<kFormat>(y[4], y[5], y[6], y[7])};
  }
}

// Where the cells of a row's token are; position is not negative.
struct TokenCells {
  int64_t page;
  int slot;
  __device__ TokenCells(const KvLayout& layout, const CudaBatch& batch, int64_t row, int position) {
    const int page_tokens = static_cast<int>(layout.page_tokens);
    const int entry = position / page_tokens;
    page = batch.page_table[static_cast<int64_t>(batch.row_piece[row]) * batch.max_pages + entry];
    slot = position - entry * page_tokens;
  }
  __device__ std::byte* cell(const KvLayout& layout, std::byte* pool, int which, int kv_head) const {
    return pool + layout.offset(page, which, kv_head, slot);
  }
};

}  // namespace qg::kvcache
