#pragma once
// In which 16-bit type a model is computed: FP16 unless BF16 is asked for.
#include <string>
#include <string_view>

#include "core/dtype.h"
#include "core/quant_spec.h"

namespace qg {

// "fp16" or "bf16"; throws Error for another word.
DType parse_compute_type(std::string_view word);

// Throws Error where `executor` ("cpu", "cuda") cannot compute a checkpoint in `type`: BF16 serves unquantized weights
// on a GPU. where: the model.
void check_compute_type(DType type, const std::string& executor, const QuantSpec& quant, const std::string& where);

}  // namespace qg
