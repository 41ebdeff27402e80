#pragma once
// What determines the bytes of a quantized checkpoint, beside the model and the calibration text. Defaults are what
// measured best (docs/quantization.md); the recipe goes into the checkpoint's lineage.
#include <cstdint>
#include <optional>

#include "core/json.h"
#include "core/quant_spec.h"

namespace qg {

struct Recipe {
  WeightFormat weights = WeightFormat::fp8;
  ActivationScaling activations = ActivationScaling::static_tensor;  // fp8 and int8_sq: how the input is scaled
  WeightScaling weight_scaling = WeightScaling::tensor;              // fp8: per tensor or per output channel
  int64_t group_size = 0;    // int4_awq: 128, 64, 32, or 0 = the greatest of them that divides every layer
  bool zero_points = false;  // int4_awq: asymmetric codes
  int alpha_steps = 20;      // of the searches over the smoothing exponent; 0 = fixed_alpha
  double fixed_alpha = 0.5;
  bool clip_search = true;     // int4_awq: shrink group ranges where that lowers the error
  bool error_feedback = true;  // round with error feedback instead of to nearest
  double damp = 0.01;          // of the error feedback's Gram matrix, as a share of its mean diagonal
  bool scale_search = true;  // fp8, static int8: search static scales for the least error instead of taking the maximum

  Json to_json() const;
  // The layout-independent description of what this recipe makes. Throws Error when the parts do not go together.
  QuantSpec spec(const std::vector<int64_t>& input_widths) const;
};

// The recipe that `quantize --weights F` uses when nothing else is said.
Recipe default_recipe(WeightFormat weights);

// The greatest of 128, 64, 32 that divides all widths; throws Error when none does. allowed: sizes that the layout
// takes.
int64_t pick_group_size(const std::vector<int64_t>& input_widths);

}  // namespace qg
