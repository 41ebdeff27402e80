#pragma once
// One weight, rounded: the same operations, in the same order, as the CPU's quantizers (src/quantize), so that equal
// inputs give equal codes. round(row, column, value, code) returns the value that the code stands for.
#include <cuda_fp16.h>
#include <cuda_fp8.h>

#include <cstdint>

#include "kernels/quantize/cuda_rounding.h"

namespace qg {

__device__ __forceinline__ uint8_t e4m3_code(float x) {
  return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
}
__device__ __forceinline__ __half e4m3_half(uint8_t code) {
  return __half(__nv_cvt_fp8_to_halfraw(code, __NV_E4M3));
}
__device__ __forceinline__ float e4m3_value(uint8_t code) {
  return __half2float(e4m3_half(code));
}
__device__ __forceinline__ float int8_code(float x) {  // an integer within +-127
  return fminf(fmaxf(rintf(x), -127.0f), 127.0f);
}
// u of 0..15 and its value on one group's grid.
__device__ __forceinline__ float int4_code(float w, float scale, float zero) {
  return fminf(fmaxf(__fadd_rn(rintf(__fdiv_rn(w, scale)), zero), 0.0f), 15.0f);
}
__device__ __forceinline__ float int4_value(float u, float scale, float zero) {
  return __fmul_rn(__fadd_rn(u, -zero), scale);
}

struct Fp8Rounding {
  const float* scales;  // [n]
  __device__ float operator()(int64_t row, int64_t, float value, uint8_t* code) const {
    const float scale = scales[row];
    *code = e4m3_code(__fdiv_rn(value, scale));
    return __fmul_rn(e4m3_value(*code), scale);
  }
};

struct Int8Rounding {
  const float* scales;  // [n]
  __device__ float operator()(int64_t row, int64_t, float value, uint8_t* code) const {
    const float scale = scales[row], c = int8_code(__fdiv_rn(value, scale));
    *code = static_cast<uint8_t>(static_cast<int8_t>(c));
    return __fmul_rn(c, scale);
  }
};

struct Int4Rounding {
  const float* scales;   // [n, groups]
  const uint8_t* zeros;  // [n, groups]
  int64_t groups, group;
  __device__ float operator()(int64_t row, int64_t column, float value, uint8_t* code) const {
    const int64_t at = row * groups + column / group;
    const float scale = scales[at], zero = zeros[at], u = int4_code(value, scale, zero);
    *code = static_cast<uint8_t>(u);
    return int4_value(u, scale, zero);
  }
};

// Calls use(rounding) with the functor that `format` names.
template <class Use>
void with_rounding(const CodeScales& s, const Use& use) {
  if (s.format == WeightFormat::fp8)
    use(Fp8Rounding{s.scales});
  else if (s.format == WeightFormat::int8_sq)
    use(Int8Rounding{s.scales});
  else
    use(Int4Rounding{s.scales, s.zeros, s.groups, s.group});
}

}  // namespace qg
