#pragma once
// Models that the program knows by name: one row each. A grid file can add others by their folder.
#include <string>
#include <string_view>
#include <vector>

#include "core/model_shape.h"

namespace qg {

struct KnownModel {
  std::string name;   // "llama-3.2-3b"
  std::string label;  // "Llama-3.2-3B"
  std::string stem;   // checkpoint stem: "llama-3.2-3b-instruct"
  std::string hub;    // where people find it: "meta-llama/Llama-3.2-3B-Instruct"
  ModelShape shape;
};

const std::vector<KnownModel>& known_models();
const KnownModel* find_known_model(std::string_view name);  // null when there is none

}  // namespace qg
