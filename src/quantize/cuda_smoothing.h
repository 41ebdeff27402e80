#pragma once
// The scales of a search over the smoothing exponent, on the host: what int8.cc and int4.cc try.
#include <vector>

#include "core/parallel.h"
#include "quantize/group.h"

namespace qg {

struct SmoothingTrial {
  double alpha = 0;
  std::vector<float> down;  // [k]: the input is multiplied by it; as stored
  std::vector<float> up;    // [k]: the weights are, = 1 / down
};

// One trial an exponent, by the magnitudes of inputs and weights [k]. ones_at_zero: exponent 0 means no scaling at all
// (int4).
inline std::vector<SmoothingTrial> smoothing_trials(const std::vector<double>& alphas,
                                                    const std::vector<double>& activation,
                                                    const std::vector<double>& weight, bool ones_at_zero) {
  std::vector<SmoothingTrial> trials(alphas.size());
  parallel_for(static_cast<int64_t>(alphas.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      SmoothingTrial& t = trials[static_cast<size_t>(i)];
      t.alpha = alphas[static_cast<size_t>(i)];
      const std::vector<float> s = ones_at_zero && t.alpha == 0 ? std::vector<float>(activation.size(), 1.0f)
                                                                : smoothing(activation, weight, t.alpha);
      t.down.resize(s.size());
      t.up.resize(s.size());
      for (size_t j = 0; j < s.size(); ++j) {
        t.down[j] = storable_prequant(1.0 / static_cast<double>(s[j]));
        t.up[j] = 1.0f / t.down[j];
      }
    }
  });
  return trials;
}

}  // namespace qg
