#pragma once
#include <cstdint>

namespace qg {

// Pointers of one call; shapes as in LinearDesc, row-major. Null where the desc says that there is none.
struct LinearParams {
  const void* x = nullptr;                // [m, k] activation_dtype
  const void* weight = nullptr;           // [n, k] weight_dtype; int4_awq: [n, k/2] bytes, low nibble = even column
  const float* weight_scale = nullptr;    // [1], [n] or [n, k/group_size]
  const uint8_t* zero_point = nullptr;    // [n, k/group_size]
  const float* input_scale = nullptr;     // [1], static activations
  const float* prequant_scale = nullptr;  // [k]
  void* y = nullptr;                      // [m, n] activation_dtype, overwritten
};

}  // namespace qg
