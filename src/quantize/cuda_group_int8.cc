// INT8 SmoothQuant on a GPU; int8.cc is the definition.
#include <algorithm>

#include "core/error.h"
#include "quantize/cuda_group_state.h"
#include "quantize/cuda_smoothing.h"

namespace qg {

GroupResult CudaGroupQuantizer::State::int8(const Recipe& recipe, const QuantSpec& spec) {
  if (spec.activations != ActivationScaling::dynamic_token)
    throw Error("int8_sq is made with per-token activation scales", "recipe", "static ones lose a factor of ten in KL");
  column_absmax(queue, wide.as<float>(), p->n, p->k, fold.as<double>(), fold_scratch.as<double>());
  const std::vector<double> weight_max = read(fold.as<double>(), p->k);
  std::vector<double> alphas;
  for (int i = 0; i <= recipe.alpha_steps && recipe.alpha_steps > 0; ++i)
    alphas.push_back(static_cast<double>(i) / recipe.alpha_steps);
  if (alphas.empty()) alphas.push_back(recipe.fixed_alpha);
  if (alphas.size() >= kMostTrials)
    throw Error("more exponents are asked for than a search on a GPU holds (" + std::to_string(kMostTrials - 1) + ")",
                "recipe", "use --executor cpu");
  const std::vector<SmoothingTrial> trials =
      smoothing_trials(alphas, std::vector<double>(absmax.begin(), absmax.end()), weight_max, false);

  const auto smooth_input = [&] {
    activation_codes(queue, WeightFormat::int8_sq, p->input.sample, column(kDown), 0, p->input.sampled, p->k,
                     inputs.as<__half>(), input_scales.as<float>());
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
      smooth_input();
      measure(inputs.as<__half>(), input_scales.as<float>(), half_codes.as<__half>(), row_scales.as<float>(), 1, false,
              sums.as<double>() + i);
    }
    const std::vector<double> found = read_errors(static_cast<int64_t>(trials.size()));
    best = static_cast<size_t>(std::min_element(found.begin(), found.end()) - found.begin());
  }
  load(best);
  const std::vector<float>& stored = trials[best].down;
  row_absmax(queue, wide.as<float>(), column(kUp), p->n, p->k, row_amax.as<float>());
  std::vector<float> scales = read(row_amax.as<float>(), p->n);
  for (float& s : scales) s = s > 0 ? s / 127.0f : 1.0f;
  upload(scales.data(), scales.size() * sizeof(float), row_scales.data());
  CodeScales code_scales;
  code_scales.format = WeightFormat::int8_sq;
  code_scales.scales = row_scales.as<float>();
  round(recipe, code_scales, column(kUp), stored);
  const std::vector<NewTensor> parts = download(DType::i8, codes.data(), p->k);

  codes_as_half(queue, WeightFormat::int8_sq, codes.as<uint8_t>(), p->n * p->k, half_codes.as<__half>());
  smooth_input();
  measure(inputs.as<__half>(), input_scales.as<float>(), half_codes.as<__half>(), row_scales.as<float>(), 1, false,
          sums.as<double>());
  GroupResult result;
  result.relative_error = read_errors(1)[0];
  int64_t first = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    LinearWeights w;
    w.format = WeightFormat::int8_sq;
    w.n = p->rows[i];
    w.k = p->k;
    w.weight = parts[i].tensor;
    w.weight_scale =
        tensor_from_f32(std::span(scales).subspan(static_cast<size_t>(first), static_cast<size_t>(w.n)), {w.n});
    if (!p->foldable) w.prequant_scale = tensor_from_f32(stored, {p->k});
    result.linears.push_back(std::move(w));
    first += p->rows[i];
  }
  if (p->foldable) result.norm_multiplier = stored;
  return result;
}

}  // namespace qg
