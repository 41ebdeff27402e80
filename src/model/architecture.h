#pragma once
// An architecture is a table: which tensors and linear layers a model of this family has, what they are called in each
// layout, which linear layers share an input, and what may absorb a scale.
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/hf_config.h"
#include "core/model_shape.h"

namespace qg {

// The table of a model. Throws Error when shape.family is unknown or its numbers do not fit together.
ModelTable make_model_table(const ModelShape& shape);

// The families known, by Hugging Face architecture name ("LlamaForCausalLM" → "llama"); empty when unknown.
std::optional<std::string> family_of_architecture(const std::string& architecture);
std::string architecture_of_family(const std::string& family);

// How the family's config.json is read and written. Throws Error when the family is unknown.
const HfRules& hf_rules_of_family(const std::string& family);
std::vector<std::string> known_architectures();

}  // namespace qg
