#include "quantize/input_check.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "checkpoint/linear_parts.h"
#include "core/error.h"
#include "core/float.h"
#include "core/parallel.h"

namespace qg {
namespace {

bool all_finite(const Tensor& tensor) {
  constexpr int64_t kPiece = 1 << 16;
  std::atomic<bool> finite = true;
  parallel_for(tensor.elements(), kPiece, [&](int64_t begin, int64_t end) {
    std::vector<float> values(static_cast<size_t>(std::min(end - begin, kPiece)));
    for (int64_t at = begin; at < end && finite; at += kPiece) {
      const auto count = static_cast<size_t>(std::min(end - at, kPiece));
      f32_from_any(tensor.dtype, tensor.data + static_cast<size_t>(at) * size_bytes(tensor.dtype), values.data(),
                   count);
      // 0 times infinity, and 0 times what is no number, are no numbers: one test for the whole piece.
      float sum = 0;
      for (size_t i = 0; i < count; ++i) sum += values[i] * 0.0f;
      if (!(sum == 0.0f)) finite = false;
    }
  });
  return finite;
}

void check(const Tensor& tensor, const Checkpoint& base, const std::string& name) {
  if (!all_finite(tensor))
    throw Error("holds values that are infinite or not a number", base.folder().string() + ", tensor " + name,
                "the model is broken: fetch it again, or store it as BF16 or F32 if it overflowed in F16");
}

}  // namespace

void check_finite_layer(const Checkpoint& base, int layer) {
  for (const TensorSpec& spec : base.table().tensors)
    if (spec.layer == layer) check(base.tensor(spec), base, spec.hf_name);
  for (const LinearSpec& spec : base.table().linears) {
    if (spec.layer != layer || layer < 0) continue;
    int64_t row = 0;
    const LinearWeights whole = base.linear(spec);
    for (const LinearSpec::Part& part : spec.parts) {
      check(part_rows(whole, row, part.rows).weight, base, part.hf_name + ".weight");
      row += part.rows;
    }
  }
}

void check_finite_activations(std::span<const float> absmax, const std::string& where) {
  for (float value : absmax)
    if (!std::isfinite(value))
      throw Error("the 16-bit model computes values that are infinite or not a number", where,
                  "its weights or its config.json (rms_norm_eps, rope_theta) are broken: fetch it again");
}

}  // namespace qg
