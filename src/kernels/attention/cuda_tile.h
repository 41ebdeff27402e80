#pragma once
// Pieces of the attention kernels of the sm80 family: copies into shared memory, fragments of 16 x 8 x 16 products, and
// the conversion of 8-bit elements to f16 within fragments. Device code only.
//
// 8-bit elements come out of ldmatrix four to a register, where a fragment register holds two f16. even_pair takes the
// bytes 0 and 2, odd_pair 1 and 3: what the order means for K (a permutation of head_dim, undone by permuting q alike)
// and for V (which output row or column a value belongs to) is said where they are used.
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstddef>
#include <cstdint>

#include "core/format.h"
#include "kernels/attention/cuda_kernels.h"

namespace qg::attention {

constexpr float kLog2E = 1.4426950408889634f;

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// 16 bytes, or 16 zeros when not valid; then nothing is read.
__device__ __forceinline__ void copy_16_bytes(uint32_t to, const void* from, bool valid) {
  const int bytes = valid ? 16 : 0;
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from), "r"(bytes) : "memory");
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;\n" ::: "memory");
}
template <int kLeft>
__device__ __forceinline__ void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kLeft) : "memory");
}

// Four 8 x 8 matrices of 16-bit elements; lanes 8i .. 8i+7 give the addresses of the rows of matrix i.
__device__ __forceinline__ void load_matrices(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_matrices_transposed(uint32_t (&r)[4], uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ uint32_t transpose_matrix(uint32_t x) {
  uint32_t y;
  asm("movmatrix.sync.aligned.m8n8.trans.b16 %0, %1;\n" : "=r"(y) : "r"(x));
  return y;
}

// c[16 x 8] += a[16 x 16] b[16 x 8]
__device__ __forceinline__ void multiply_add(float (&c)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};\n"
      : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

__device__ __forceinline__ uint32_t pack_half2(float low, float high) {
  const __half2 h = __floats2half2_rn(low, high);
  return *reinterpret_cast<const uint32_t*>(&h);
}

__device__ __forceinline__ float exp2_fast(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
  return y;
}

// Byte offset of 16-byte chunk `chunk` of row `row`, rows of kRowBytes: the eight rows that ldmatrix reads at one chunk
// lie in different banks.
template <int kRowBytes>
__device__ __forceinline__ uint32_t swizzled(int row, int chunk) {
  if constexpr (kRowBytes == 64) return row * 64 + ((chunk ^ ((row >> 1) & 3)) << 4);
  return row * kRowBytes + ((chunk ^ (row & 7)) << 4);
}

// How stored elements become f16. kUnit: what the f16 values must be multiplied by to be the codes' values. kNative:
// with the conversion instruction of sm_89 and later.
template <KvFormat kFormat, bool kNative>
struct Element {
  static constexpr int kBytes = 2;
  static constexpr float kUnit = 1;
};

template <>
struct Element<KvFormat::fp8, true> {
  static constexpr int kBytes = 1;
  static constexpr float kUnit = 1;
  __device__ static uint32_t to_half2(uint32_t two_codes) {
    uint32_t out = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 890
    asm("{ .reg .b16 low, high; mov.b32 {low, high}, %1; cvt.rn.f16x2.e4m3x2 %0, low; }\n"
        : "=r"(out)
        : "r"(two_codes));
#endif
    return out;
  }
  __device__ static uint32_t even_pair(uint32_t w) {
    return to_half2(__byte_perm(w, 0, 0x4420));
  }
  __device__ static uint32_t odd_pair(uint32_t w) {
    return to_half2(__byte_perm(w, 0, 0x4431));
  }
};

template <>
struct Element<KvFormat::fp8, false> {
  static constexpr int kBytes = 1;
  // s.eeee.mmm to the top of s.eeeee.mmmmmmmmmm: the value times 2^-8, subnormals too.
  static constexpr float kUnit = 256;
  __device__ static uint32_t odd_pair(uint32_t w) { return (w & 0x80008000u) | ((w >> 1) & 0x3f803f80u); }
  __device__ static uint32_t even_pair(uint32_t w) { return odd_pair(w << 8); }
};

template <bool kNative>
struct Element<KvFormat::int8, kNative> {
  static constexpr int kBytes = 1;
  static constexpr float kUnit = 1;
  // 0x6400 | b is 1024 + b in f16; with b = code + 128 the code is what is left after 1152.
  __device__ static uint32_t to_half2(uint32_t biased) {
    const uint32_t offset = 0x64806480u;
    const __half2 h = __hsub2(*reinterpret_cast<const __half2*>(&biased), *reinterpret_cast<const __half2*>(&offset));
    return *reinterpret_cast<const uint32_t*>(&h);
  }
  __device__ static uint32_t even_pair(uint32_t w) {
    return to_half2(__byte_perm(w ^ 0x80808080u, 0x64646464u, 0x4240));
  }
  __device__ static uint32_t odd_pair(uint32_t w) {
    return to_half2(__byte_perm(w ^ 0x80808080u, 0x64646464u, 0x4341));
  }
};

__device__ __forceinline__ uint32_t four_codes_int8(float4 x) {
  const auto code = [](float v) {
    return static_cast<uint32_t>(__float2int_rn(fmaxf(fminf(v, 127.0f), -127.0f))) & 0xffu;
  };
  return code(x.x) | code(x.y) << 8 | code(x.z) << 16 | code(x.w) << 24;
}

// Four consecutive results of a row, at element `column` (a multiple of 4), in the form asked for.
__device__ __forceinline__ void store_result(const Output& out, int64_t row, int column, float4 x) {
  if (out.prequant != nullptr) {
    const float4 p = *reinterpret_cast<const float4*>(out.prequant + column);
    x = {x.x * p.x, x.y * p.y, x.z * p.z, x.w * p.w};
  }
  const int64_t at = row * out.width + column;
  if (out.form == ActivationForm::f16) {
    uint2* to = reinterpret_cast<uint2*>(static_cast<__half*>(out.values) + at);
    *to = {pack_half2(x.x, x.y), pack_half2(x.z, x.w)};
    return;
  }
  const float m = out.multiplier;
  x = {__fmul_rn(x.x, m), __fmul_rn(x.y, m), __fmul_rn(x.z, m), __fmul_rn(x.w, m)};
  uint32_t* to = reinterpret_cast<uint32_t*>(static_cast<std::byte*>(out.values) + at);
  if (out.form == ActivationForm::int8) {
    *to = four_codes_int8(x);
  } else {
    const uint32_t low = __nv_cvt_float2_to_fp8x2({x.x, x.y}, __NV_SATFINITE, __NV_E4M3);
    *to = low | static_cast<uint32_t>(__nv_cvt_float2_to_fp8x2({x.z, x.w}, __NV_SATFINITE, __NV_E4M3)) << 16;
  }
}

}  // namespace qg::attention
