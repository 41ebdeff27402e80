#include "core/model_shape.h"

#include <array>

#include "core/error.h"

namespace qg {

std::string_view to_string(TensorRole role) {
  static constexpr std::array<std::string_view, 5> kNames{"embedding", "attention_norm", "mlp_norm", "final_norm",
                                                          "lm_head"};
  return kNames[static_cast<size_t>(role)];
}

std::string_view to_string(LinearRole role) {
  static constexpr std::array<std::string_view, 5> kNames{"qkv", "attention_output", "gate", "up", "down"};
  return kNames[static_cast<size_t>(role)];
}

const TensorSpec* ModelTable::find(TensorRole role, int layer) const {
  for (const TensorSpec& spec : tensors)
    if (spec.role == role && spec.layer == layer) return &spec;
  return nullptr;
}

const LinearSpec& ModelTable::linear(LinearRole role, int layer) const {
  for (const LinearSpec& spec : linears)
    if (spec.role == role && spec.layer == layer) return spec;
  throw Error("the model has no linear layer " + std::string(to_string(role)), "layer " + std::to_string(layer));
}

std::vector<const LinearSpec*> ModelTable::layer_linears(int layer) const {
  std::vector<const LinearSpec*> found;
  for (const LinearSpec& spec : linears)
    if (spec.layer == layer) found.push_back(&spec);
  return found;
}

}  // namespace qg
