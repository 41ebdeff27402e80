// INT4 AWQ on a GPU; int4.cc is the definition. What a trial loses is computed as the input times what the weight lost,
// so that the sample stays as it is: (x s)(w_q) = x (s w_q).
#include <algorithm>

#include "core/error.h"
#include "quantize/cuda_group_state.h"
#include "quantize/cuda_smoothing.h"

namespace qg {
namespace {

constexpr int kClipSteps = 18, kTrialClipSteps = 6;  // as in int4.cc

}  // namespace

GroupResult CudaGroupQuantizer::State::int4(const Recipe& recipe, const QuantSpec& spec) {
  std::vector<double> mean(abs_sum);
  for (double& m : mean) m /= static_cast<double>(p->input.rows);
  share_values(mean, p->shared_scales, false);
  std::vector<double> alphas;
  for (int i = 0; i < recipe.alpha_steps; ++i) alphas.push_back(static_cast<double>(i) / recipe.alpha_steps);
  if (alphas.empty()) alphas.push_back(recipe.fixed_alpha);
  if (alphas.size() >= kMostTrials)
    throw Error("more exponents are asked for than a search on a GPU holds (" + std::to_string(kMostTrials - 1) + ")",
                "recipe", "use --executor cpu");
  const std::vector<SmoothingTrial> trials =
      smoothing_trials(alphas, mean, std::vector<double>(mean.size(), 1.0), true);

  // Mean square of each input channel: a column's error counts so much.
  if (p->input.gram)
    gram_diagonal(queue, p->input.gram, p->k, column(kMoments));
  else
    column_moments(queue, p->input.sample, p->input.sampled, p->k, column(kMoments));
  std::vector<float> moments = read(column(kMoments), p->k);
  for (float& m : moments) m /= static_cast<float>(p->input.gram ? p->input.rows : p->input.sampled);

  Int4Trial trial;
  trial.group = spec.group_size;
  trial.zero_points = spec.zero_points;
  const auto load = [&](size_t i, int clip_steps) {
    const SmoothingTrial& t = trials[i];
    std::vector<float> importance(moments);
    for (size_t j = 0; j < importance.size(); ++j) importance[j] = importance[j] * t.down[j] * t.down[j];
    upload(t.down.data(), t.down.size() * sizeof(float), column(kDown));
    upload(t.up.data(), t.up.size() * sizeof(float), column(kUp));
    upload(importance.data(), importance.size() * sizeof(float), column(kImportance));
    trial.down = column(kDown);
    trial.up = column(kUp);
    trial.importance = column(kImportance);
    trial.clip_steps = recipe.clip_search ? clip_steps : 0;
  };
  size_t best = 0;
  if (trials.size() > 1) {
    trial.delta = half_codes.as<__half>();
    for (size_t i = 0; i < trials.size(); ++i) {
      load(i, kTrialClipSteps);
      int4_trial(queue, wide.as<float>(), p->n, p->k, trial);
      measure(p->input.sample, nullptr, half_codes.as<__half>(), nullptr, 1, true, sums.as<double>() + i);
    }
    const std::vector<double> found = read_errors(static_cast<int64_t>(trials.size()));
    best = static_cast<size_t>(std::min_element(found.begin(), found.end()) - found.begin());
  }
  load(best, kClipSteps);
  trial.delta = nullptr;
  trial.scales = grid_scales.as<float>();
  trial.zeros = grid_zeros.as<uint8_t>();
  int4_trial(queue, wide.as<float>(), p->n, p->k, trial);
  const int64_t groups = p->k / spec.group_size;
  CodeScales code_scales;
  code_scales.format = WeightFormat::int4_awq;
  code_scales.scales = grid_scales.as<float>();
  code_scales.zeros = grid_zeros.as<uint8_t>();
  code_scales.groups = groups;
  code_scales.group = spec.group_size;
  const std::vector<float>& stored = trials[best].down;
  round(recipe, code_scales, trial.up, stored);
  pack_int4(queue, codes.as<uint8_t>(), p->n * p->k, packed.as<uint8_t>());
  const std::vector<NewTensor> parts = download(DType::u8, packed.data(), p->k / 2),
                               scales = download(DType::f32, grid_scales.data(), groups),
                               zeros = download(DType::u8, grid_zeros.data(), groups);

  int4_delta(queue, wide.as<float>(), codes.as<uint8_t>(), code_scales, trial.down, p->n, p->k,
             half_codes.as<__half>());
  measure(p->input.sample, nullptr, half_codes.as<__half>(), nullptr, 1, true, sums.as<double>());
  GroupResult result;
  result.relative_error = read_errors(1)[0];
  for (size_t i = 0; i < parts.size(); ++i) {
    LinearWeights w;
    w.format = WeightFormat::int4_awq;
    w.n = p->rows[i];
    w.k = p->k;
    w.group_size = spec.group_size;
    w.weight = parts[i].tensor;
    w.weight_scale = scales[i].tensor;
    if (spec.zero_points) w.zero_point = zeros[i].tensor;
    w.prequant_scale = tensor_from_f32(stored, {p->k});
    result.linears.push_back(std::move(w));
  }
  return result;
}

}  // namespace qg
