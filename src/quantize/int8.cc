// INT8 SmoothQuant (Xiao et al., 2022): activation outliers are moved into the weights by a scale per channel, so that
// both fit eight bits; the exponent that splits them is searched for the least output error.
#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/parallel.h"
#include "quantize/error_feedback.h"
#include "quantize/group.h"

namespace qg {
namespace {

std::vector<float> row_scales(const std::vector<float>& w, int64_t n, int64_t k) {
  std::vector<float> scales(static_cast<size_t>(n));
  parallel_for(n, 64, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float amax = 0;
      for (int64_t c = 0; c < k; ++c) amax = std::max(amax, std::fabs(w[static_cast<size_t>(r * k + c)]));
      scales[static_cast<size_t>(r)] = amax > 0 ? amax / 127.0f : 1.0f;
    }
  });
  return scales;
}

int8_t round_code(float value, float scale) {
  return static_cast<int8_t>(std::clamp(std::nearbyint(value / scale), -127.0f, 127.0f));
}

// x [rows, k] * factor[k], quantized per token and back, in place.
void round_tokens(std::vector<float>& x, int64_t rows, int64_t k, const std::vector<float>& factor) {
  parallel_for(rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float* row = x.data() + r * k;
      float amax = 0;
      for (int64_t c = 0; c < k; ++c) {
        row[c] *= factor[static_cast<size_t>(c)];
        amax = std::max(amax, std::fabs(row[c]));
      }
      const float scale = amax > 0 ? amax / 127.0f : 1.0f;
      for (int64_t c = 0; c < k; ++c) row[c] = static_cast<float>(round_code(row[c], scale)) * scale;
    }
  });
}

std::vector<float> rounded_weight(const std::vector<float>& w, int64_t n, int64_t k) {
  const std::vector<float> scales = row_scales(w, n, k);
  std::vector<float> out(w.size());
  parallel_for(n, 32, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t c = 0; c < k; ++c) {
        const auto i = static_cast<size_t>(r * k + c);
        out[i] = static_cast<float>(round_code(w[i], scales[static_cast<size_t>(r)])) * scales[static_cast<size_t>(r)];
      }
  });
  return out;
}

struct Smoothing {
  std::vector<float> down;  // [k]: the input is multiplied by it
  std::vector<float> up;    // [k]: the weights are, = 1 / down
};

// x [rows, k] * factor[k], quantized with one scale and back, in place.
void round_static(std::vector<float>& x, const std::vector<float>& factor, float scale) {
  const size_t k = factor.size();
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(round_code(x[i] * factor[i % k], scale)) * scale;
}

// The static scale that just holds everything seen.
float covering_scale(const GroupProblem& p, const Smoothing& s) {
  float amax = 0;
  for (size_t j = 0; j < s.down.size(); ++j) amax = std::max(amax, p.input.absmax[j] * s.down[j]);
  return amax > 0 ? amax / 127.0f : 1.0f;
}

// The static scale with the least output error through the given weights: outliers may be clipped.
float search_input_scale(const GroupProblem& p, const Smoothing& s, const OutputError& error,
                         const std::vector<float>& weight, bool search) {
  const float base = covering_scale(p, s);
  if (!search) return base;
  constexpr int kSteps = 14;
  float best_scale = base;
  double best = 1e300;
  for (int i = 0; i <= kSteps; ++i) {
    const float scale = base * (1.0f - 0.05f * static_cast<float>(i));
    std::vector<float> x = p.input.sample;
    round_static(x, s.down, scale);
    const double e = error.of(x, weight);
    if (e < best) {
      best = e;
      best_scale = scale;
    }
  }
  return best_scale;
}

Smoothing smoothing_at(const GroupProblem& p, const std::vector<double>& weight_max, double alpha) {
  std::vector<double> act(p.input.absmax.begin(), p.input.absmax.end()), weight = weight_max;
  share_values(act, p.shared_scales, true);
  share_values(weight, p.shared_scales, true);
  const std::vector<float> s = smoothing(act, weight, alpha);
  Smoothing result{std::vector<float>(s.size()), std::vector<float>(s.size())};
  for (size_t j = 0; j < s.size(); ++j) {
    result.down[j] = storable_prequant(1.0 / static_cast<double>(s[j]));
    result.up[j] = 1.0f / result.down[j];
  }
  return result;
}

double trial_error(const GroupProblem& p, const OutputError& error, const Smoothing& s, bool is_static) {
  std::vector<float> w = p.weight, x = p.input.sample;
  scale_columns(w, p.n, p.k, s.up);
  if (is_static)
    round_static(x, s.down, covering_scale(p, s));
  else
    round_tokens(x, p.input.sampled, p.k, s.down);
  return error.of(x, rounded_weight(w, p.n, p.k));
}

}  // namespace

GroupResult quantize_group_int8(GroupProblem p, const Recipe& recipe, const QuantSpec& spec) {
  const bool is_static = spec.activations == ActivationScaling::static_tensor;
  const OutputError error(p.input.sample, p.input.sampled, p.weight, p.n, p.k);
  const std::vector<double> weight_max = column_absmax(p.weight, p.n, p.k);
  double best_alpha = recipe.fixed_alpha, best = 1e300;
  for (int i = 0; i <= recipe.alpha_steps && recipe.alpha_steps > 0; ++i) {
    const double alpha = static_cast<double>(i) / recipe.alpha_steps;
    const double e = trial_error(p, error, smoothing_at(p, weight_max, alpha), is_static);
    if (e < best) {
      best = e;
      best_alpha = alpha;
    }
  }
  const Smoothing s = smoothing_at(p, weight_max, best_alpha);
  scale_columns(p.weight, p.n, p.k, s.up);

  const std::vector<float> scales = row_scales(p.weight, p.n, p.k);
  const NewTensor codes = new_tensor(DType::i8, {p.n, p.k});
  int8_t* q = codes.as<int8_t>();
  const auto round = [&](int64_t r, int64_t c, float value) {
    const float scale = scales[static_cast<size_t>(r)];
    const int8_t code = round_code(value, scale);
    q[r * p.k + c] = code;
    return static_cast<float>(code) * scale;
  };
  if (recipe.error_feedback) {
    scale_gram(p.input.gram, p.k, s.down);
    const FeedbackFactor factor(std::move(p.input.gram), p.k, recipe.damp, true);
    round_with_feedback(p.weight, p.n, factor, round);
  } else {
    for (int64_t r = 0; r < p.n; ++r)
      for (int64_t c = 0; c < p.k; ++c) round(r, c, p.weight[static_cast<size_t>(r * p.k + c)]);
  }

  GroupResult result;
  std::vector<float>& kept = p.weight;  // now the values that the codes stand for, in the input's own scale
  for (int64_t r = 0; r < p.n; ++r)
    for (int64_t c = 0; c < p.k; ++c)
      kept[static_cast<size_t>(r * p.k + c)] = static_cast<float>(q[r * p.k + c]) * scales[static_cast<size_t>(r)];
  std::vector<float> x = p.input.sample;
  float input_scale = 0;
  if (is_static) {
    input_scale = search_input_scale(p, s, error, kept, recipe.scale_search);
    round_static(x, s.down, input_scale);
  } else {
    round_tokens(x, p.input.sampled, p.k, s.down);
  }
  result.relative_error = error.of(x, kept);

  int64_t first = 0;
  for (int64_t rows : p.rows) {
    LinearWeights w;
    w.format = WeightFormat::int8_sq;
    w.n = rows;
    w.k = p.k;
    w.weight = {DType::i8, {rows, p.k}, reinterpret_cast<const std::byte*>(q + first * p.k), codes.tensor.owner};
    w.weight_scale =
        tensor_from_f32(std::span(scales).subspan(static_cast<size_t>(first), static_cast<size_t>(rows)), {rows});
    if (is_static) w.input_scale = tensor_from_f32(std::span(&input_scale, 1), {1});
    if (!p.foldable) w.prequant_scale = tensor_from_f32(s.down, {p.k});
    result.linears.push_back(std::move(w));
    first += rows;
  }
  if (p.foldable) result.norm_multiplier = s.down;
  return result;
}

}  // namespace qg
