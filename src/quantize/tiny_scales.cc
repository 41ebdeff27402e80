#include "quantize/tiny_scales.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "core/float.h"

namespace qg {
namespace {

constexpr float kSmallestF16 = 0x1p-24f;

bool is_tiny(float scale) {
  return scale > 0 && f32_from_f16(f16_from_f32(scale)) == 0;
}

// The code on the smallest scale for `code` on a finer one. It lies between `code` and `zero`, so it is a code too.
uint8_t coarser(int code, int zero, float ratio) {
  return static_cast<uint8_t>(zero + static_cast<int>(std::nearbyint(static_cast<float>(code - zero) * ratio)));
}

}  // namespace

void raise_tiny_scales(LinearWeights& w) {
  if (w.format != WeightFormat::int4_awq) return;
  std::vector<float> scales = to_f32(w.weight_scale);  // [n, groups]
  if (std::none_of(scales.begin(), scales.end(), is_tiny)) return;
  const NewTensor codes = new_tensor(w.weight.dtype, w.weight.shape);  // [n, k / 2], even columns in the low half
  std::copy_n(w.weight.data, w.weight.bytes(), codes.data);
  const int64_t pairs = w.group_size / 2;
  for (size_t g = 0; g < scales.size(); ++g) {
    if (!is_tiny(scales[g])) continue;
    const int zero = w.zero_point.empty() ? 8 : w.zero_point.as<uint8_t>()[g];
    const float ratio = scales[g] / kSmallestF16;
    uint8_t* group = codes.as<uint8_t>() + static_cast<int64_t>(g) * pairs;
    for (int64_t i = 0; i < pairs; ++i)
      group[i] = static_cast<uint8_t>(coarser(group[i] & 15, zero, ratio) | (coarser(group[i] >> 4, zero, ratio) << 4));
    scales[g] = kSmallestF16;
  }
  w.weight = codes.tensor;
  w.weight_scale = tensor_from_f32(scales, w.weight_scale.shape);
}

}  // namespace qg
