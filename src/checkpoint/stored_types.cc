#include "checkpoint/stored_types.h"

#include <fmt/format.h>

namespace qg {

std::string f32_matrices_note(const Checkpoint& checkpoint, DType computed) {
  const TensorSet* files = checkpoint.stored();
  // Among quantized weights the matrices of floats are scales, which stay F32.
  if (!files || checkpoint.quant().weights != WeightFormat::fp16) return {};
  int64_t count = 0;
  for (const std::string& name : files->names()) {
    const StoredTensor& tensor = *files->find(name);
    count += tensor.dtype == DType::f32 && tensor.shape.size() == 2;
  }
  if (count == 0) return {};
  return fmt::format("{} matrices stored in F32 are computed in {}: they are rounded from 24 bits to {}", count,
                     computed == DType::bf16 ? "BF16" : "FP16", computed == DType::bf16 ? 8 : 11);
}

}  // namespace qg
