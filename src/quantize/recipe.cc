#include "quantize/recipe.h"

#include <algorithm>

#include "core/error.h"

namespace qg {
namespace {

const char* name_of(ActivationScaling a) {
  return a == ActivationScaling::static_tensor ? "static" : a == ActivationScaling::dynamic_token ? "dynamic" : "none";
}

}  // namespace

int64_t pick_group_size(const std::vector<int64_t>& input_widths) {
  for (const int64_t size : {int64_t{128}, int64_t{64}, int64_t{32}})
    if (std::all_of(input_widths.begin(), input_widths.end(), [&](int64_t k) { return k % size == 0; })) return size;
  std::string widths;
  for (int64_t k : input_widths) widths += (widths.empty() ? "" : ", ") + std::to_string(k);
  throw Error("no group size of 128, 64 or 32 divides all layers (widths " + widths + ")", "int4_awq",
              "quantize this model to fp8 or int8_sq");
}

Recipe default_recipe(WeightFormat weights) {
  Recipe r;
  r.weights = weights;
  r.activations = weights == WeightFormat::fp8       ? ActivationScaling::static_tensor
                  : weights == WeightFormat::int8_sq ? ActivationScaling::dynamic_token
                                                     : ActivationScaling::none;
  r.weight_scaling = weights == WeightFormat::fp8        ? WeightScaling::tensor
                     : weights == WeightFormat::int8_sq  ? WeightScaling::channel
                     : weights == WeightFormat::int4_awq ? WeightScaling::group
                                                         : WeightScaling::none;
  return r;
}

Json Recipe::to_json() const {
  Json j;
  j["weights"] = std::string(to_string(weights));
  if (weights == WeightFormat::fp8 || weights == WeightFormat::int8_sq) j["activations"] = name_of(activations);
  if (weights == WeightFormat::fp8)
    j["weight_scales"] = weight_scaling == WeightScaling::channel ? "per channel" : "per tensor";
  const bool static_int8 = weights == WeightFormat::int8_sq && activations == ActivationScaling::static_tensor;
  if (weights == WeightFormat::fp8 || static_int8) j["scale_search"] = scale_search;
  if (weights == WeightFormat::int4_awq) {
    j["group_size"] = group_size;
    j["zero_points"] = zero_points;
    j["clip_search"] = clip_search;
  }
  if (weights == WeightFormat::int4_awq || weights == WeightFormat::int8_sq) {
    if (alpha_steps > 0)
      j["alpha"] = "searched, " + std::to_string(alpha_steps) + " steps";
    else
      j["alpha"] = fixed_alpha;
  }
  if (weights != WeightFormat::fp16) {
    j["error_feedback"] = error_feedback;
    if (error_feedback) j["damp"] = damp;
  }
  return j;
}

QuantSpec Recipe::spec(const std::vector<int64_t>& input_widths) const {
  QuantSpec spec;
  spec.weights = weights;
  switch (weights) {
    case WeightFormat::fp16:
      return spec;
    case WeightFormat::fp8:
      spec.weight_scaling = weight_scaling;
      spec.activations = activations;
      if (weight_scaling != WeightScaling::tensor && weight_scaling != WeightScaling::channel)
        throw Error("fp8 weights have one scale a tensor or one a channel", "recipe");
      break;
    case WeightFormat::int8_sq:
      spec.weight_scaling = WeightScaling::channel;
      spec.activations = activations;
      spec.prequant_scales = true;
      break;
    case WeightFormat::int4_awq:
      spec.weight_scaling = WeightScaling::group;
      spec.group_size = group_size > 0 ? group_size : pick_group_size(input_widths);
      spec.zero_points = zero_points;
      spec.prequant_scales = true;
      for (int64_t k : input_widths)
        if (k % spec.group_size != 0)
          throw Error("group size " + std::to_string(spec.group_size) + " does not divide a layer of width " +
                          std::to_string(k),
                      "int4_awq", "use --group-size 64 or 32, or leave it out");
      break;
  }
  if (weights != WeightFormat::int4_awq && spec.activations == ActivationScaling::none)
    throw Error(std::string(to_string(weights)) + " needs static or dynamic activation scales", "recipe");
  spec.exclude = {"lm_head"};
  return spec;
}

}  // namespace qg
