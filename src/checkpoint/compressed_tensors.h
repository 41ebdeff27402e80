#pragma once
// "quantization_config" of a compressed-tensors folder: one group of settings for all linear layers.
#include <string>

#include "core/json.h"
#include "core/quant_spec.h"

namespace qg {

// Throws Error on what we do not run, naming it: several groups, block scales, activation order, other bit widths.
QuantSpec parse_compressed_tensors_quant(const Json& config, const std::string& where);
Json make_compressed_tensors_quant(const QuantSpec& quant);

}  // namespace qg
