#pragma once
// config.json of a Hugging Face folder: the numbers of the model, with the keys that must have one value checked, so
// that a model that we would compute wrongly is refused by name.
#include <filesystem>
#include <optional>
#include <string>

#include "core/json.h"
#include "core/model_shape.h"

namespace qg {

// How one architecture spells its config.json; src/model has a row for each.
struct HfRules {
  std::string architecture;  // "MistralForCausalLM"
  std::string model_type;    // "mistral"
  std::string family;        // our name for it, copied into ModelShape::family
  // What transformers takes when the key is absent; 0 query heads per KV head means as many KV heads as heads.
  int64_t default_kv_heads = 0;
  int64_t default_max_position = 2048;
  bool sliding_window = false;  // honours the key "sliding_window"; otherwise the key means nothing
  std::optional<int64_t> default_sliding_window;
};

struct HfConfig {
  ModelShape shape;
  DType dtype = DType::f32;  // as the file states it; the tensors have the last word
};

// The one entry of "architectures"; throws Error when there is none or more than one.
std::string hf_architecture(const Json& config, const std::string& where);
// The name of the method when the folder is quantized already ("awq", "modelopt", ...), else empty.
std::optional<std::string> hf_quant_method(const Json& config);
HfConfig parse_hf_config(const Json& config, const std::string& where, const HfRules& rules);

// The file for a shape, in the spelling that transformers 4 and 5 both read.
Json make_hf_config(const ModelShape& shape, DType dtype, const HfRules& rules);

// Bounds on every number, so that no product of them overflows; throws Error naming the number.
void check_shape_limits(const ModelShape& shape, const std::string& where);

// "rope_scaling" of a config.json (HF) or "rotary_scaling" (TensorRT-LLM): null, "default" or "llama3"; others are
// refused by name.
std::optional<RopeScaling> parse_rope_scaling(const Json& value, const std::string& where,
                                              std::optional<int64_t> original_max_position = {});
Json make_rope_scaling(const std::optional<RopeScaling>& scaling);

}  // namespace qg
