#include "quantize/kv_scales.h"

#include <algorithm>
#include <cmath>

#include "quantize/layer_result.h"

namespace qg {
namespace {

// Of values with this largest magnitude; the sample decides for int8.
float scale_of(KvFormat format, float absmax, std::span<const float> sample) {
  if (!(absmax > 0)) return 1;
  if (format != KvFormat::int8) return absmax / 448.0f;
  const float base = absmax / 127.0f;
  float best_scale = base;
  double best = 1e300;
  for (int i = 0; i <= 20; ++i) {
    const float scale = base * (1.0f - 0.025f * static_cast<float>(i));
    double e = 0;
    for (float v : sample) {
      const float gap = v - std::clamp(std::nearbyint(v / scale), -127.0f, 127.0f) * scale;
      e += static_cast<double>(gap * gap);
    }
    if (e < best) {
      best = e;
      best_scale = scale;
    }
  }
  return best_scale;
}

}  // namespace

void KvCollector::add(std::span<const float> values) {
  for (float v : values) absmax_ = std::max(absmax_, std::fabs(v));
  const auto count = static_cast<int64_t>(values.size());
  for (int64_t i = (kKvSampleStride - seen_ % kKvSampleStride) % kKvSampleStride; i < count; i += kKvSampleStride)
    sample_.push_back(values[static_cast<size_t>(i)]);
  seen_ += count;
}

float KvCollector::scale(KvFormat format) const {
  return scale_of(format, absmax_, sample_);
}

void multiply_values(LayerKv& kv, std::span<const float> factor) {
  for (size_t c = 0; c < kv.value_max.size(); ++c) kv.value_max[c] *= std::fabs(factor[c]);
  for (size_t i = 0; i < kv.values.size(); ++i)
    kv.values[i] *= factor[i * static_cast<size_t>(kKvSampleStride) % factor.size()];
  const float absmax = *std::max_element(kv.value_max.begin(), kv.value_max.end());
  kv.fp8.v = scale_of(KvFormat::fp8, absmax, kv.values);
  kv.int8.v = scale_of(KvFormat::int8, absmax, kv.values);
}

}  // namespace qg
