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
    if (!finite) return;
    if (!qg::all_finite(tensor.dtype, tensor.data + static_cast<size_t>(begin) * size_bytes(tensor.dtype), end - begin))
      finite = false;
  });
  return finite;
}

// An exponent of ones is infinity or no number. Without a branch, so that the compiler makes vectors of it.
template <class Bits>
bool no_full_exponent(const void* values, int64_t count, Bits exponent) {
  const auto* bits = static_cast<const Bits*>(values);
  Bits full = 0;
  for (int64_t i = 0; i < count; ++i) full = static_cast<Bits>(full | ((bits[i] & exponent) == exponent));
  return full == 0;
}

void check(const Tensor& tensor, const Checkpoint& base, const std::string& name) {
  if (!all_finite(tensor))
    throw Error("holds values that are infinite or not a number", base.folder().string() + ", tensor " + name,
                "the model is broken: fetch it again, or store it as BF16 or F32 if it overflowed in F16");
}

}  // namespace

bool all_finite(DType dtype, const void* values, int64_t count) {
  if (dtype == DType::f16) return no_full_exponent<uint16_t>(values, count, 0x7c00);
  if (dtype == DType::bf16) return no_full_exponent<uint16_t>(values, count, 0x7f80);
  if (dtype == DType::f32) return no_full_exponent<uint32_t>(values, count, 0x7f800000);
  std::vector<float> wide(static_cast<size_t>(count));
  f32_from_any(dtype, values, wide.data(), wide.size());
  return std::all_of(wide.begin(), wide.end(), [](float v) { return std::isfinite(v); });
}

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

void check_finite_sums(std::span<const double> sums, const std::string& where, const std::string& more) {
  if (!std::all_of(sums.begin(), sums.end(), [](double sum) { return std::isfinite(sum); }))
    throw Error("the 16-bit model computes values that are infinite or not a number", where,
                "its weights or its config.json (rms_norm_eps, rope_theta) are broken: fetch it again" + more);
}

}  // namespace qg
