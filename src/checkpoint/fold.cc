#include "checkpoint/fold.h"

#include <algorithm>

#include "checkpoint/linear_parts.h"
#include "core/error.h"

namespace qg {
namespace {

bool all_ones(const Tensor& scale) {
  const std::vector<float> values = to_f32(scale);
  return std::all_of(values.begin(), values.end(), [](float v) { return v == 1.0f; });
}

void check_width(const LinearWeights& w, const LinearSpec& spec) {
  if (w.prequant_scale.shape != Shape{spec.k})
    throw Error("the scale of the input has shape " + to_string(w.prequant_scale.shape) + ", should have " +
                    to_string(Shape{spec.k}),
                spec.trtllm_name);
}

// Multiplies out features [first, first + factor.size()) by factor.
void scale_rows(LinearWeights& w, int64_t first, const std::vector<float>& factor, const LinearSpec& spec) {
  if (w.format != WeightFormat::int4_awq && w.format != WeightFormat::int8_sq)
    throw Error("a scale of the next layer's input can be folded into int4 or int8 weights only, not " +
                    std::string(to_string(w.format)),
                spec.trtllm_name, "quantize the model again for this layout");
  Tensor scales = w.format == WeightFormat::int8_sq ? scale_per_row(w.weight_scale, w.n) : w.weight_scale;
  std::vector<float> values = to_f32(scales);
  const size_t groups = values.size() / static_cast<size_t>(w.n);
  for (size_t r = 0; r < factor.size(); ++r)
    for (size_t g = 0; g < groups; ++g) values[(static_cast<size_t>(first) + r) * groups + g] *= factor[r];
  w.weight_scale = tensor_from_f32(values, scales.shape);
}

// The scale of the layers that read one norm's output goes into the norm.
void fold_into_norm(LayerWeights& layer, const ModelTable& table, int index, const std::vector<LinearRole>& roles,
                    std::vector<float>& norm) {
  const LinearSpec& first = table.linear(roles.front(), index);
  const Tensor scale = layer.linears.at(roles.front()).prequant_scale;
  for (LinearRole role : roles) {
    LinearWeights& w = layer.linears.at(role);
    const bool same =
        w.prequant_scale.empty() == scale.empty() && (scale.empty() || to_f32(w.prequant_scale) == to_f32(scale));
    if (!same)
      throw Error("layers that read one activation scale it differently, and this layout has one scale for them",
                  table.linear(role, index).trtllm_name, "quantize the 16-bit model again for this layout");
    w.prequant_scale = {};
  }
  if (scale.empty()) return;
  const std::vector<float> values = to_f32(scale);
  if (values.size() != norm.size())
    throw Error("the scale of the input has " + std::to_string(values.size()) + " elements, the norm " +
                    std::to_string(norm.size()),
                first.trtllm_name);
  for (size_t j = 0; j < norm.size(); ++j) norm[j] *= values[j];
}

void fold_into_up(LayerWeights& layer, const ModelTable& table, int index) {
  LinearWeights& down = layer.linears.at(LinearRole::down);
  if (down.prequant_scale.empty()) return;
  check_width(down, table.linear(LinearRole::down, index));
  scale_rows(layer.linears.at(LinearRole::up), 0, to_f32(down.prequant_scale), table.linear(LinearRole::up, index));
  down.prequant_scale = {};
}

// Returns the factor of V's rows; empty where there is none.
std::vector<float> fold_into_v(LayerWeights& layer, const ModelTable& table, int index) {
  LinearWeights& output = layer.linears.at(LinearRole::attention_output);
  if (output.prequant_scale.empty()) return {};
  const LinearSpec& spec = table.linear(LinearRole::attention_output, index);
  check_width(output, spec);
  const ModelShape& shape = table.shape;
  const std::vector<float> values = to_f32(output.prequant_scale);
  std::vector<float> of_v(static_cast<size_t>(shape.kv_rows()));
  for (int64_t head = 0; head < shape.heads; ++head)
    for (int64_t d = 0; d < shape.head_dim; ++d) {
      float& shared = of_v[static_cast<size_t>(head / shape.group() * shape.head_dim + d)];
      const float value = values[static_cast<size_t>(head * shape.head_dim + d)];
      if (head % shape.group() == 0) shared = value;
      if (shared != value)
        throw Error(
            "the input of the attention output has a scale per query head, which this layout cannot hold: it "
            "could only go into v, which the heads of a group share",
            spec.trtllm_name,
            "quantize the 16-bit model again with `quantize --layout`: it searches a scale "
            "that can be folded");
    }
  scale_rows(layer.linears.at(LinearRole::qkv), shape.q_rows() + shape.kv_rows(), of_v,
             table.linear(LinearRole::qkv, index));
  output.prequant_scale = {};
  return of_v;
}

}  // namespace

PrequantPlace prequant_place(Layout layout, const QuantSpec& quant) {
  const bool dynamic_int8 =
      quant.weights == WeightFormat::int8_sq && quant.activations == ActivationScaling::dynamic_token;
  switch (layout) {
    case Layout::trtllm:
      return dynamic_int8 ? PrequantPlace::not_behind_norm : PrequantPlace::anywhere;
    case Layout::modelopt:
      return quant.weights == WeightFormat::int8_sq ? PrequantPlace::anywhere : PrequantPlace::not_behind_norm;
    case Layout::compressed_tensors:
    case Layout::autoawq:
    case Layout::huggingface:
      break;
  }
  return PrequantPlace::nowhere;
}

std::vector<float> fold_prequant(LayerWeights& layer, const ModelTable& table, int index, PrequantPlace place) {
  for (auto& [role, weights] : layer.linears)
    if (!weights.prequant_scale.empty() && all_ones(weights.prequant_scale)) weights.prequant_scale = {};
  if (place == PrequantPlace::anywhere) return {};
  fold_into_norm(layer, table, index, {LinearRole::qkv}, layer.attention_norm);
  fold_into_norm(layer, table, index, {LinearRole::gate, LinearRole::up}, layer.mlp_norm);
  if (place == PrequantPlace::not_behind_norm) return {};
  fold_into_up(layer, table, index);
  return fold_into_v(layer, table, index);
}

std::vector<int32_t> shared_output_scales(const ModelShape& shape) {
  std::vector<int32_t> shared;
  for (int64_t head = 0; head < shape.heads; ++head)
    for (int64_t d = 0; d < shape.head_dim; ++d)
      shared.push_back(static_cast<int32_t>(head / shape.group() * shape.head_dim + d));
  return shared;
}

}  // namespace qg
