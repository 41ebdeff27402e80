// INT8 SmoothQuant on a GPU; int8.cc is the definition.
#include <algorithm>

#include "core/error.h"
#include "quantize/cuda_group_state.h"
#include "quantize/cuda_smoothing.h"

namespace qg {
namespace {

constexpr float kLargest = 127.0f;
constexpr int kInputSteps = 14;  // as in int8.cc

}  // namespace

GroupResult CudaGroupQuantizer::State::int8(const Recipe& recipe, const QuantSpec& spec) {
  const bool is_static = spec.activations == ActivationScaling::static_tensor;
  column_absmax(queue, wide.as<float>(), p->n, p->k, fold.as<double>(), fold_scratch.as<double>());
  std::vector<double> weight_max = read(fold.as<double>(), p->k), input_max(absmax.begin(), absmax.end());
  share_values(weight_max, p->shared_scales, true);
  share_values(input_max, p->shared_scales, true);
  std::vector<double> alphas;
  for (int i = 0; i <= recipe.alpha_steps && recipe.alpha_steps > 0; ++i)
    alphas.push_back(static_cast<double>(i) / recipe.alpha_steps);
  if (alphas.empty()) alphas.push_back(recipe.fixed_alpha);
  if (alphas.size() >= kMostTrials)
    throw Error("more exponents are asked for than a search on a GPU holds (" + std::to_string(kMostTrials - 1) + ")",
                "recipe", "use --executor cpu");
  const std::vector<SmoothingTrial> trials = smoothing_trials(alphas, input_max, weight_max, false);

  // The sample's error through half_codes, its inputs rounded with one scale, or (0) one for each token.
  const auto measure_with = [&](float input_scale, double* sum) {
    activation_codes(queue, WeightFormat::int8_sq, p->input.sample, column(kDown), input_scale, p->input.sampled, p->k,
                     inputs.as<__half>(), input_scales.as<float>());
    measure(inputs.as<__half>(), is_static ? nullptr : input_scales.as<float>(), half_codes.as<__half>(),
            row_scales.as<float>(), is_static ? input_scale : 1, false, sum);
  };
  const auto covering_scale = [&](const SmoothingTrial& t) {
    float amax = 0;
    for (size_t j = 0; j < t.down.size(); ++j) amax = std::max(amax, absmax[j] * t.down[j]);
    return amax > 0 ? amax / kLargest : 1.0f;
  };
  const auto load = [&](size_t i) {
    upload(trials[i].down.data(), trials[i].down.size() * sizeof(float), column(kDown));
    upload(trials[i].up.data(), trials[i].up.size() * sizeof(float), column(kUp));
  };
  size_t best = 0;
  if (trials.size() > 1) {
    for (size_t i = 0; i < trials.size(); ++i) {
      load(i);
      row_absmax(queue, wide.as<float>(), column(kUp), p->n, p->k, row_amax.as<float>());
      int8_weight_codes(queue, wide.as<float>(), column(kUp), row_amax.as<float>(), p->n, p->k, half_codes.as<__half>(),
                        row_scales.as<float>());
      measure_with(is_static ? covering_scale(trials[i]) : 0, sums.as<double>() + i);
    }
    const std::vector<double> found = read_errors(static_cast<int64_t>(trials.size()));
    best = static_cast<size_t>(std::min_element(found.begin(), found.end()) - found.begin());
  }
  load(best);
  const std::vector<float>& stored = trials[best].down;
  row_absmax(queue, wide.as<float>(), column(kUp), p->n, p->k, row_amax.as<float>());
  std::vector<float> scales = read(row_amax.as<float>(), p->n);
  for (float& s : scales) s = s > 0 ? s / kLargest : 1.0f;
  upload(scales.data(), scales.size() * sizeof(float), row_scales.data());
  CodeScales code_scales;
  code_scales.format = WeightFormat::int8_sq;
  code_scales.scales = row_scales.as<float>();
  round(recipe, code_scales, column(kUp), stored);
  const std::vector<NewTensor> parts = download(DType::i8, codes.data(), p->k);

  codes_as_half(queue, WeightFormat::int8_sq, codes.as<uint8_t>(), p->n * p->k, half_codes.as<__half>());
  std::vector<float> tried{0};
  if (is_static) {  // outliers may be clipped
    tried[0] = covering_scale(trials[best]);
    for (int i = 1; i <= kInputSteps && recipe.scale_search; ++i)
      tried.push_back(tried[0] * (1.0f - 0.05f * static_cast<float>(i)));
  }
  for (size_t i = 0; i < tried.size(); ++i) measure_with(tried[i], sums.as<double>() + i);
  const std::vector<double> input_errors = read_errors(static_cast<int64_t>(tried.size()));
  const auto chosen = std::min_element(input_errors.begin(), input_errors.end()) - input_errors.begin();
  const float input_scale = tried[static_cast<size_t>(chosen)];
  GroupResult result;
  result.relative_error = input_errors[static_cast<size_t>(chosen)];
  int64_t first = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    LinearWeights w;
    w.format = WeightFormat::int8_sq;
    w.n = p->rows[i];
    w.k = p->k;
    w.weight = parts[i].tensor;
    w.weight_scale =
        tensor_from_f32(std::span(scales).subspan(static_cast<size_t>(first), static_cast<size_t>(w.n)), {w.n});
    if (is_static) w.input_scale = tensor_from_f32(std::span(&input_scale, 1), {1});
    if (!p->foldable) w.prequant_scale = tensor_from_f32(stored, {p->k});
    result.linears.push_back(std::move(w));
    first += p->rows[i];
  }
  if (p->foldable) result.norm_multiplier = stored;
  return result;
}

}  // namespace qg
