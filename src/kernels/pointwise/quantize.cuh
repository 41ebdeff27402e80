#pragma once
// Rounding of activations, as kernels/pointwise/run.h defines it: q = round(x * (1/scale)), to nearest even,
// saturating.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include "kernels/common/activation.h"

namespace qg {

inline constexpr float kSmallestNormalFloat = 1.17549435e-38f;

template <ActivationForm kForm>
struct Quantized {
  static constexpr float kLargest = kForm == ActivationForm::fp8 ? 448.0f : 127.0f;
};

// The scale of a row whose largest magnitude is `amax`.
template <ActivationForm kForm>
__device__ __forceinline__ float row_scale(float amax) {
  return fmaxf(__fdiv_rn(amax, Quantized<kForm>::kLargest), kSmallestNormalFloat);
}

// One code. `inverse` is 1/scale rounded to float.
template <ActivationForm kForm>
__device__ __forceinline__ uint8_t quantize(float x, float inverse) {
  const float scaled = __fmul_rn(x, inverse);
  if constexpr (kForm == ActivationForm::fp8) {
    return __nv_cvt_float_to_fp8(scaled, __NV_SATFINITE, __NV_E4M3);
  } else {
    const int code = __float2int_rn(fminf(fmaxf(scaled, -127.0f), 127.0f));
    return static_cast<uint8_t>(static_cast<int8_t>(code));
  }
}

// The type of 16-bit values that a kernel reads and writes which ends in kForm; how two of them are packed and
// unpacked.
template <ActivationForm kForm>
struct Wide {
  using Type = __half;
  using Pair = __half2;
  static __device__ __forceinline__ float2 floats(Pair x) { return __half22float2(x); }
  static __device__ __forceinline__ Pair pair(float x, float y) { return __floats2half2_rn(x, y); }
};
template <>
struct Wide<ActivationForm::bf16> {
  using Type = __nv_bfloat16;
  using Pair = __nv_bfloat162;
  static __device__ __forceinline__ float2 floats(Pair x) { return __bfloat1622float2(x); }
  static __device__ __forceinline__ Pair pair(float x, float y) { return __floats2bfloat162_rn(x, y); }
};

// kCount values of a row, from column `column` on (a multiple of kCount), in the form asked for.
template <ActivationForm kForm, int kCount>
__device__ __forceinline__ void store(void* row, int64_t column, const float (&x)[kCount], float inverse) {
  if constexpr (is_16_bit(kForm)) {
    using W = Wide<kForm>;
    typename W::Pair packed[kCount / 2];
#pragma unroll
    for (int i = 0; i < kCount / 2; ++i) packed[i] = W::pair(x[2 * i], x[2 * i + 1]);
    auto* to = static_cast<typename W::Type*>(row) + column;
    if constexpr (kCount == 8)
      *reinterpret_cast<uint4*>(to) = *reinterpret_cast<const uint4*>(packed);
    else
      *reinterpret_cast<uint2*>(to) = *reinterpret_cast<const uint2*>(packed);
  } else {
    uint32_t packed[kCount / 4];
#pragma unroll
    for (int i = 0; i < kCount / 4; ++i) {
      packed[i] = 0;
#pragma unroll
      for (int j = 0; j < 4; ++j) packed[i] |= static_cast<uint32_t>(quantize<kForm>(x[4 * i + j], inverse)) << (8 * j);
    }
    uint8_t* to = static_cast<uint8_t*>(row) + column;
    if constexpr (kCount == 8)
      *reinterpret_cast<uint2*>(to) = make_uint2(packed[0], packed[1]);
    else
      *reinterpret_cast<uint32_t*>(to) = packed[0];
  }
}

}  // namespace qg
