#pragma once
// Static scales of the KV cache, one for K and one for V per layer, from calibration.
#include <cstdint>
#include <span>
#include <vector>

#include "core/format.h"
#include "core/quant_spec.h"

namespace qg {

struct LayerKv;

inline constexpr int64_t kKvSampleStride = 61;  // of elements; prime, so that all heads and dimensions are met

// Sees one layer's keys (after RoPE) or values.
class KvCollector {
 public:
  void add(std::span<const float> values);
  // Scale of stored = round(x / scale). fp8: largest magnitude / 448. int8: the scale with the least squared error.
  float scale(KvFormat format) const;
  const std::vector<float>& sample() const { return sample_; }

 private:
  float absmax_ = 0;
  int64_t seen_ = 0;
  std::vector<float> sample_;  // every kKvSampleStride-th value
};

// Multiplies channel c of the layer's V by factor[c], [kv_rows], and finds its scales anew.
void multiply_values(LayerKv& kv, std::span<const float> factor);

}  // namespace qg
