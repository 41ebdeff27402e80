#pragma once
#include <cstddef>
#include <cstdint>

#include "kernels/kvcache/layout.h"
#include "kernels/kvcache/params.h"

namespace qg {

// Stores K and V of new tokens into their pages.
void run_kv_append_reference(const KvLayout& layout, const KvAppendParams& params);

// How one element is stored: fp16 rounds x (scale unused); fp8 is e4m3(x * (1/scale)), saturating; int8 rounds
// x * (1/scale) half to even and clamps to +-127. 1/scale is rounded to float first, so that every executor agrees.
void kv_encode(KvFormat format, float scale, const float* from, std::byte* to, int64_t count);
void kv_decode(KvFormat format, float scale, const std::byte* from, float* to, int64_t count);

}  // namespace qg
