#pragma once
// How the input of a linear layer lies in device memory: 16-bit, or quantized by the kernel that produced it.
#include <cstdint>

namespace qg {

enum class ActivationForm { f16, fp8, int8, bf16 };

constexpr bool is_16_bit(ActivationForm form) {
  return form == ActivationForm::f16 || form == ActivationForm::bf16;
}
constexpr int64_t bytes_of(ActivationForm form) {  // a value
  return is_16_bit(form) ? 2 : 1;
}

// What a linear layer wants from the kernel before it (RMSNorm, SiLU gating, attention). q = round(x * p / scale).
struct ActivationRequest {
  ActivationForm form = ActivationForm::f16;
  bool per_token = false;           // one scale a row, largest magnitude / 448 or 127; else static_scale
  float static_scale = 1;           // fp8 and int8 without per_token
  const float* prequant = nullptr;  // [k] on the device: x is multiplied by it first; null: ones
};

// Where it lies. values [m, k] of half, bfloat16, e4m3 or int8, dense.
struct ActivationBuffer {
  void* values = nullptr;
  float* row_scales = nullptr;  // [m], per_token only
};

}  // namespace qg
