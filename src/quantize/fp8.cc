// FP8 (e4m3) weights and activations. e4m3 is itself a floating format, so a scale matters by where it puts the values
// within a binade, at the saturated top and in the subnormal bottom: both scales are searched for the least output
// error.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/float.h"
#include "core/parallel.h"
#include "quantize/error_feedback.h"
#include "quantize/group.h"

namespace qg {
namespace {

float rounded(float value, float scale) {
  return f32_from_e4m3(e4m3_from_f32(value / scale)) * scale;
}

void round_all(std::vector<float>& x, float scale) {
  parallel_for(static_cast<int64_t>(x.size()), 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) x[static_cast<size_t>(i)] = rounded(x[static_cast<size_t>(i)], scale);
  });
}

void round_tokens(std::vector<float>& x, int64_t rows, int64_t k) {
  parallel_for(rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float* row = x.data() + r * k;
      float amax = 0;
      for (int64_t c = 0; c < k; ++c) amax = std::max(amax, std::fabs(row[c]));
      const float scale = amax > 0 ? amax / kE4m3Max : 1.0f;
      for (int64_t c = 0; c < k; ++c) row[c] = rounded(row[c], scale);
    }
  });
}

float absmax(std::span<const float> x) {
  float m = 0;
  for (float v : x) m = std::max(m, std::fabs(v));
  return m;
}

std::vector<float> input_moments(const GroupProblem& p) {
  std::vector<float> moments(static_cast<size_t>(p.k), 0.0f);
  for (int64_t r = 0; r < p.input.sampled; ++r)
    for (int64_t c = 0; c < p.k; ++c) {
      const float v = p.input.sample[static_cast<size_t>(r * p.k + c)];
      moments[static_cast<size_t>(c)] += v * v;
    }
  return moments;
}

// The scale of `count` rows of weights with the least squared error, columns weighted by their inputs' second moments.
// Only the fraction of the binade counts while nothing saturates: one octave above the scale of the maximum covers it.
float search_weight_scale(const float* w, int64_t count, int64_t k, const std::vector<float>& moments, bool search) {
  const float base = std::max(absmax(std::span(w, static_cast<size_t>(count * k))), 1e-12f) / kE4m3Max;
  if (!search) return base;
  constexpr int kSteps = 16;
  std::vector<double> errors(kSteps, 0.0);
  parallel_for(kSteps, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float scale = base * std::exp2(static_cast<float>(i) / kSteps);
      double e = 0;
      for (int64_t r = 0; r < count; ++r)
        for (int64_t c = 0; c < k; ++c) {
          const float v = w[r * k + c], gap = v - rounded(v, scale);
          e += static_cast<double>(moments[static_cast<size_t>(c)] * gap * gap);
        }
      errors[static_cast<size_t>(i)] = e;
    }
  });
  const auto best = std::min_element(errors.begin(), errors.end()) - errors.begin();
  return base * std::exp2(static_cast<float>(best) / kSteps);
}

// The static activation scale with the least output error through the given weights.
float search_input_scale(const GroupProblem& p, const OutputError& error, const std::vector<float>& weight,
                         bool search) {
  const float base = std::max(absmax(p.input.absmax), 1e-12f) / kE4m3Max;
  if (!search) return base;
  // Clipping is never worth it here (measured: halving the scale of the maximum on down projections multiplies the
  // loss), so the search stays within what rounds the maximum to 448 or leaves room above it.
  constexpr int kSteps = 10;
  double best = 1e300;
  float best_scale = base;
  for (int i = 0; i <= kSteps; ++i) {
    const float scale = base * std::exp2(-0.05f + 1.05f * static_cast<float>(i) / kSteps);
    std::vector<float> x = p.input.sample;
    round_all(x, scale);
    const double e = error.of(x, weight);
    if (e < best) {
      best = e;
      best_scale = scale;
    }
  }
  return best_scale;
}

}  // namespace

GroupResult quantize_group_fp8(GroupProblem p, const Recipe& recipe, const QuantSpec& spec) {
  const OutputError error(p.input.sample, p.input.sampled, p.weight, p.n, p.k);
  const std::vector<float> moments = input_moments(p);
  const bool per_channel = spec.weight_scaling == WeightScaling::channel;

  std::vector<float> scales(static_cast<size_t>(p.n));
  if (per_channel) {
    for (int64_t r = 0; r < p.n; ++r)
      scales[static_cast<size_t>(r)] =
          search_weight_scale(p.weight.data() + r * p.k, 1, p.k, moments, recipe.scale_search);
  } else {
    // One for the whole group: layouts fuse q with k and v, and gate with up.
    std::fill(scales.begin(), scales.end(),
              search_weight_scale(p.weight.data(), p.n, p.k, moments, recipe.scale_search));
  }
  const NewTensor codes = new_tensor(DType::f8_e4m3, {p.n, p.k});
  uint8_t* q = codes.as<uint8_t>();
  const auto round = [&](int64_t r, int64_t c, float value) {
    const float scale = scales[static_cast<size_t>(r)];
    q[r * p.k + c] = e4m3_from_f32(value / scale);
    return f32_from_e4m3(q[r * p.k + c]) * scale;
  };
  if (recipe.error_feedback) {
    const FeedbackFactor factor(std::move(p.input.gram), p.k, recipe.damp, true);
    round_with_feedback(p.weight, p.n, factor, round);
  } else {
    for (int64_t r = 0; r < p.n; ++r)
      for (int64_t c = 0; c < p.k; ++c) round(r, c, p.weight[static_cast<size_t>(r * p.k + c)]);
  }
  for (int64_t r = 0; r < p.n; ++r)
    for (int64_t c = 0; c < p.k; ++c)
      p.weight[static_cast<size_t>(r * p.k + c)] = f32_from_e4m3(q[r * p.k + c]) * scales[static_cast<size_t>(r)];

  GroupResult result;
  float input_scale = 0;
  std::vector<float> x = p.input.sample;
  if (spec.activations == ActivationScaling::static_tensor) {
    input_scale = search_input_scale(p, error, p.weight, recipe.scale_search);
    round_all(x, input_scale);
  } else {
    round_tokens(x, p.input.sampled, p.k);
  }
  result.relative_error = error.of(x, p.weight);

  int64_t first = 0;
  for (int64_t rows : p.rows) {
    LinearWeights w;
    w.format = WeightFormat::fp8;
    w.n = rows;
    w.k = p.k;
    w.weight = {DType::f8_e4m3, {rows, p.k}, reinterpret_cast<const std::byte*>(q + first * p.k), codes.tensor.owner};
    const int64_t count = per_channel ? rows : 1;
    w.weight_scale =
        tensor_from_f32(std::span(scales).subspan(static_cast<size_t>(first), static_cast<size_t>(count)), {count});
    if (input_scale > 0) w.input_scale = tensor_from_f32(std::span(&input_scale, 1), {1});
    result.linears.push_back(std::move(w));
    first += rows;
  }
  return result;
}

}  // namespace qg
