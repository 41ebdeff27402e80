#include "core/float.h"

#include <bit>
#include <cstring>
#include <string>

#include "core/error.h"
#include "core/multiversion.h"

namespace qg {
namespace {

// Rounds the magnitude bits of a float to a format with `mantissa` stored bits and exponent bias `bias`, to nearest
// even, subnormals included, and returns the format's magnitude bits without saturation. Adding half an ulp minus one
// plus the kept low bit is the usual integer form of round-half-even.
// Both results are computed and one is chosen: a branch would keep the compiler from vectorizing the bulk forms.
inline uint32_t round_magnitude(uint32_t abs_bits, int mantissa, int bias) {
  const int shift = 23 - mantissa;
  const uint32_t min_normal = static_cast<uint32_t>(127 - bias + 1) << 23;
  // Subnormal: adding 2^k, whose last mantissa bit is worth one subnormal step, lets the FPU do the rounding.
  const float magic = std::bit_cast<float>(static_cast<uint32_t>(127 - bias + 1 + shift) << 23);
  const uint32_t subnormal =
      std::bit_cast<uint32_t>(std::bit_cast<float>(abs_bits) + magic) - std::bit_cast<uint32_t>(magic);
  const uint32_t odd = (abs_bits >> shift) & 1;
  const uint32_t rounded = abs_bits + ((1u << (shift - 1)) - 1) + odd;
  const uint32_t normal = (rounded >> shift) - (static_cast<uint32_t>(127 - bias) << mantissa);
  return abs_bits < min_normal ? subnormal : normal;
}

inline uint16_t f16_bits(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint16_t sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const uint32_t magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return static_cast<uint16_t>(sign | 0x7e00u | ((magnitude >> 13) & 0x3ffu));
  if (magnitude >= 0x47800000u) return sign | 0x7c00u;                      // 65536 and above, infinity included
  return static_cast<uint16_t>(sign | round_magnitude(magnitude, 10, 15));  // 65520 and above carry into infinity
}

// The float whose magnitude bits, shifted to a float's mantissa, are `bits`, in a format of exponent bias `bias`. A
// number without an exponent bit gets one, and loses it again by an exact subtraction: arithmetic on subnormal floats,
// which a scaling would do, takes a processor a hundred times as long.
inline float from_magnitude(uint32_t bits, int bias) {
  const uint32_t shift = static_cast<uint32_t>(127 - bias) << 23, least = shift + (1u << 23);
  const float normal = std::bit_cast<float>(bits + shift);
  const float subnormal = std::bit_cast<float>(bits + least) - std::bit_cast<float>(least);
  return bits < (1u << 23) ? subnormal : normal;
}

inline float f32_bits(uint16_t h) {
  const uint32_t sign = static_cast<uint32_t>(h & 0x8000u) << 16;
  const uint32_t magnitude = h & 0x7fffu;
  const uint32_t finite = std::bit_cast<uint32_t>(from_magnitude(magnitude << 13, 15));
  const uint32_t special = 0x7f800000u | ((magnitude & 0x3ffu) << 13);  // infinity or NaN
  return std::bit_cast<float>(sign | (magnitude >= 0x7c00u ? special : finite));
}

inline uint16_t bf16_bits(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<uint16_t>((bits >> 16) | 0x40u);  // quiet NaN
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

inline uint8_t e4m3_bits(float x) {
  const uint32_t bits = std::bit_cast<uint32_t>(x);
  const uint32_t sign = (bits >> 24) & 0x80u;
  const uint32_t magnitude = bits & 0x7fffffffu;
  const uint32_t rounded = round_magnitude(magnitude, 3, 7);
  const uint32_t code = magnitude > 0x7f800000u    ? 0x7fu
                        : magnitude >= 0x43e00000u ? 0x7eu
                                                   : rounded;  // NaN; 448 and up
  return static_cast<uint8_t>(sign | code);
}

inline float e4m3_value(uint8_t code) {
  const uint32_t sign = static_cast<uint32_t>(code & 0x80u) << 24;
  const uint32_t magnitude = code & 0x7fu;
  const uint32_t finite = std::bit_cast<uint32_t>(from_magnitude(magnitude << 20, 7));
  return std::bit_cast<float>(sign | (magnitude == 0x7fu ? 0x7fc00000u : finite));
}

}  // namespace

uint16_t f16_from_f32(float x) {
  return f16_bits(x);
}
float f32_from_f16(uint16_t bits) {
  return f32_bits(bits);
}
uint16_t bf16_from_f32(float x) {
  return bf16_bits(x);
}
float f32_from_bf16(uint16_t bits) {
  return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
}
uint8_t e4m3_from_f32(float x) {
  return e4m3_bits(x);
}
float f32_from_e4m3(uint8_t bits) {
  return e4m3_value(bits);
}
float f32_from_e5m2(uint8_t bits) {
  return f32_bits(static_cast<uint16_t>(bits << 8));
}  // e5m2 is a cut-off f16

QG_MULTIVERSION void f16_from_f32(const float* from, uint16_t* to, size_t count) {
  for (size_t i = 0; i < count; ++i) to[i] = f16_bits(from[i]);
}
QG_MULTIVERSION void f32_from_f16(const uint16_t* from, float* to, size_t count) {
  for (size_t i = 0; i < count; ++i) to[i] = f32_bits(from[i]);
}
QG_MULTIVERSION void bf16_from_f32(const float* from, uint16_t* to, size_t count) {
  for (size_t i = 0; i < count; ++i) to[i] = bf16_bits(from[i]);
}
QG_MULTIVERSION void f32_from_bf16(const uint16_t* from, float* to, size_t count) {
  for (size_t i = 0; i < count; ++i) to[i] = std::bit_cast<float>(static_cast<uint32_t>(from[i]) << 16);
}
QG_MULTIVERSION void e4m3_from_f32(const float* from, uint8_t* to, size_t count, float multiplier) {
  for (size_t i = 0; i < count; ++i) to[i] = e4m3_bits(from[i] * multiplier);
}
QG_MULTIVERSION void f32_from_e4m3(const uint8_t* from, float* to, size_t count) {
  for (size_t i = 0; i < count; ++i) to[i] = e4m3_value(from[i]);
}

void f32_from_any(DType type, const void* from, float* to, size_t count) {
  switch (type) {
    case DType::f32:
      if (count > 0) std::memcpy(to, from, count * sizeof(float));
      return;
    case DType::f16:
      return f32_from_f16(static_cast<const uint16_t*>(from), to, count);
    case DType::bf16:
      return f32_from_bf16(static_cast<const uint16_t*>(from), to, count);
    case DType::f8_e4m3:
      return f32_from_e4m3(static_cast<const uint8_t*>(from), to, count);
    case DType::f8_e5m2:
      for (size_t i = 0; i < count; ++i) to[i] = f32_from_e5m2(static_cast<const uint8_t*>(from)[i]);
      return;
    case DType::f64:
      for (size_t i = 0; i < count; ++i) to[i] = static_cast<float>(static_cast<const double*>(from)[i]);
      return;
    case DType::i8:
      for (size_t i = 0; i < count; ++i) to[i] = static_cast<float>(static_cast<const int8_t*>(from)[i]);
      return;
    default:
      throw Error("cannot compute with elements of type " + std::string(to_string(type)));
  }
}

void any_from_f32(DType type, const float* from, void* to, size_t count) {
  switch (type) {
    case DType::f32:
      if (count > 0) std::memcpy(to, from, count * sizeof(float));
      return;
    case DType::f16:
      return f16_from_f32(from, static_cast<uint16_t*>(to), count);
    case DType::bf16:
      return bf16_from_f32(from, static_cast<uint16_t*>(to), count);
    default:
      throw Error("cannot store float values as " + std::string(to_string(type)));
  }
}

}  // namespace qg
