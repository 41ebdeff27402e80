#pragma once
// Small floating-point formats. Every conversion to a smaller format rounds to nearest, ties to even.
// e4m3 is the "fn" variant (OCP 8-bit formats, 2023): bias 7, no infinity, NaN = 0x7f / 0xff, largest 448. Values
// beyond the range saturate to +-448 (as cvt.rn.satfinite does); NaN stays NaN.
#include <cstddef>
#include <cstdint>

#include "core/dtype.h"

namespace qg {

inline constexpr float kE4m3Max = 448.0f;

uint16_t f16_from_f32(float x);  // overflow gives infinity, as IEEE says
float f32_from_f16(uint16_t bits);
uint16_t bf16_from_f32(float x);
float f32_from_bf16(uint16_t bits);
uint8_t e4m3_from_f32(float x);
float f32_from_e4m3(uint8_t bits);
float f32_from_e5m2(uint8_t bits);

// Bulk forms; `from` may not overlap `to`.
void f16_from_f32(const float* from, uint16_t* to, size_t count);
void f32_from_f16(const uint16_t* from, float* to, size_t count);
void bf16_from_f32(const float* from, uint16_t* to, size_t count);
void f32_from_bf16(const uint16_t* from, float* to, size_t count);
// to[i] = e4m3(from[i] * multiplier)
void e4m3_from_f32(const float* from, uint8_t* to, size_t count, float multiplier = 1.0f);
void f32_from_e4m3(const uint8_t* from, float* to, size_t count);

// Any of f64 f32 f16 bf16 f8_e4m3 f8_e5m2 i8 to float. Throws Error for other types.
void f32_from_any(DType type, const void* from, float* to, size_t count);
// Float to f32, f16 or bf16. Throws Error for other types.
void any_from_f32(DType type, const float* from, void* to, size_t count);

}  // namespace qg
