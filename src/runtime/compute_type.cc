#include "runtime/compute_type.h"

#include <fmt/format.h>

#include "core/error.h"

namespace qg {

DType parse_compute_type(std::string_view word) {
  if (word == "fp16") return DType::f16;
  if (word == "bf16") return DType::bf16;
  throw Error(fmt::format("unknown type '{}'", word), "--dtype", "use fp16 or bf16");
}

void check_compute_type(DType type, const std::string& executor, const QuantSpec& quant, const std::string& where) {
  if (type == DType::f16) return;
  if (type != DType::bf16)
    throw Error(fmt::format("no executor computes in {}", to_string(type)), where, "use fp16 or bf16");
  if (quant.weights != WeightFormat::fp16)
    throw Error(fmt::format("the weights are {}, and BF16 is for unquantized weights: the kernels of quantized ones "
                            "compute with FP16",
                            to_string(quant.weights)),
                where, "leave --dtype bf16 out");
  if (executor == "cpu")
    throw Error("the CPU executor computes in float, not in BF16", "--dtype bf16",
                "leave it out: float holds more than BF16 does; or use quantgrid-cuda ('make gpu' builds it)");
}

}  // namespace qg
