#include "quantize/kv_scales.h"

#include <algorithm>
#include <cmath>

namespace qg {

void KvCollector::add(std::span<const float> values) {
  for (float v : values) absmax_ = std::max(absmax_, std::fabs(v));
  const auto count = static_cast<int64_t>(values.size());
  for (int64_t i = (kKvSampleStride - seen_ % kKvSampleStride) % kKvSampleStride; i < count; i += kKvSampleStride)
    sample_.push_back(values[static_cast<size_t>(i)]);
  seen_ += count;
}

float KvCollector::scale(KvFormat format) const {
  if (!(absmax_ > 0)) return 1;
  if (format != KvFormat::int8) return absmax_ / 448.0f;
  const float base = absmax_ / 127.0f;
  float best_scale = base;
  double best = 1e300;
  for (int i = 0; i <= 20; ++i) {
    const float scale = base * (1.0f - 0.025f * static_cast<float>(i));
    double e = 0;
    for (float v : sample_) {
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

}  // namespace qg
