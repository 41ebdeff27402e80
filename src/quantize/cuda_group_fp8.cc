// FP8 on a GPU; fp8.cc is the definition.
#include <algorithm>
#include <cmath>

#include "quantize/cuda_group_state.h"

namespace qg {
namespace {

constexpr float kLargest = 448.0f;
constexpr int kInputSteps = 10;

float scale_of_step(float base, int step) {
  return base * std::exp2(static_cast<float>(step) / kFp8Steps);
}

// From the errors [n, kFp8Steps] of each row and the scale of each row's maximum.
std::vector<float> least_error_scales(const std::vector<double>& errors, const std::vector<float>& base,
                                      bool per_channel) {
  std::vector<float> scales(base.size());
  double total[kFp8Steps] = {};
  for (size_t r = 0; r < base.size(); ++r) {
    const double* row = errors.data() + r * kFp8Steps;
    scales[r] = scale_of_step(base[r], static_cast<int>(std::min_element(row, row + kFp8Steps) - row));
    for (int i = 0; i < kFp8Steps; ++i) total[i] += row[i];
  }
  if (!per_channel) {
    const auto best = std::min_element(total, total + kFp8Steps) - total;
    std::fill(scales.begin(), scales.end(), scale_of_step(base.front(), static_cast<int>(best)));
  }
  return scales;
}

}  // namespace

GroupResult CudaGroupQuantizer::State::fp8(const Recipe& recipe, const QuantSpec& spec) {
  const bool per_channel = spec.weight_scaling == WeightScaling::channel;
  row_absmax(queue, wide.as<float>(), nullptr, p->n, p->k, row_amax.as<float>());
  std::vector<float> base = read(row_amax.as<float>(), p->n);
  if (!per_channel) std::fill(base.begin(), base.end(), *std::max_element(base.begin(), base.end()));
  for (float& b : base) b = std::max(b, 1e-12f) / kLargest;
  std::vector<float> scales = base;
  if (recipe.scale_search) {
    column_moments(queue, p->input.sample, p->input.sampled, p->k, column(kMoments));
    upload(base.data(), base.size() * sizeof(float), row_scales.data());
    fp8_weight_errors(queue, wide.as<float>(), column(kMoments), row_scales.as<float>(), p->n, p->k,
                      errors.as<double>());
    scales = least_error_scales(read(errors.as<double>(), p->n * kFp8Steps), base, per_channel);
  }
  upload(scales.data(), scales.size() * sizeof(float), row_scales.data());
  CodeScales code_scales;
  code_scales.format = WeightFormat::fp8;
  code_scales.scales = row_scales.as<float>();
  round(recipe, code_scales, nullptr, {});
  const std::vector<NewTensor> parts = download(DType::f8_e4m3, codes.data(), p->k);

  // The static scale of the input, through the rounded weights; see fp8.cc for its range.
  codes_as_half(queue, WeightFormat::fp8, codes.as<uint8_t>(), p->n * p->k, half_codes.as<__half>());
  std::vector<float> tried;
  if (spec.activations == ActivationScaling::static_tensor) {
    const float input_base = std::max(*std::max_element(absmax.begin(), absmax.end()), 1e-12f) / kLargest;
    if (!recipe.scale_search) tried.push_back(input_base);
    for (int i = 0; i <= kInputSteps && recipe.scale_search; ++i)
      tried.push_back(input_base * std::exp2(-0.05f + 1.05f * static_cast<float>(i) / kInputSteps));
  } else {
    tried.push_back(0);  // a scale for each token
  }
  for (size_t i = 0; i < tried.size(); ++i) {
    activation_codes(queue, WeightFormat::fp8, p->input.sample, nullptr, tried[i], p->input.sampled, p->k,
                     inputs.as<__half>(), input_scales.as<float>());
    measure(inputs.as<__half>(), tried[i] > 0 ? nullptr : input_scales.as<float>(), half_codes.as<__half>(),
            row_scales.as<float>(), tried[i] > 0 ? tried[i] : 1, false, sums.as<double>() + i);
  }
  const std::vector<double> input_errors = read_errors(static_cast<int64_t>(tried.size()));
  const auto best = std::min_element(input_errors.begin(), input_errors.end()) - input_errors.begin();
  const float input_scale = tried[static_cast<size_t>(best)];

  GroupResult result;
  result.relative_error = input_errors[static_cast<size_t>(best)];
  int64_t first = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    LinearWeights w;
    w.format = WeightFormat::fp8;
    w.n = p->rows[i];
    w.k = p->k;
    w.weight = parts[i].tensor;
    const int64_t count = per_channel ? w.n : 1;
    w.weight_scale =
        tensor_from_f32(std::span(scales).subspan(static_cast<size_t>(first), static_cast<size_t>(count)), {count});
    if (input_scale > 0) w.input_scale = tensor_from_f32(std::span(&input_scale, 1), {1});
    result.linears.push_back(std::move(w));
    first += p->rows[i];
  }
  return result;
}

}  // namespace qg
