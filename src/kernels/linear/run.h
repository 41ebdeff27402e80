#pragma once
#include <functional>
#include <string>

#include "core/format.h"
#include "kernels/linear/desc.h"
#include "kernels/linear/params.h"

namespace qg {

// Pointers into `weights`; x [m, k] and y [m, n] are float.
LinearParams linear_params(const LinearWeights& weights, const float* x, float* y);

// An input that was just rounded. Who gets it may change codes and scales: the product goes on with what is left there.
struct RoundedInput {
  WeightFormat format;              // fp8 or int8_sq
  int64_t m, k;                     // rows, columns
  const float* x;                   // [m, k], before the rounding and without prequant scales
  const float* prequant = nullptr;  // [k]; null: ones
  float* codes;                     // [m, stride], e4m3 values or integers; columns from k on are zeros
  int64_t stride;
  float* scales;  // [m], all the same where the scale is static
};
using InputJudge = std::function<void(const RoundedInput& input)>;

// The definition of a quantized linear layer, in float on the CPU. Returns what was computed. Each element of y is a
// sum in an order that depends on k alone: results do not depend on the other rows, on the number of threads or on the
// processor. Throws Error when the desc asks for a combination that does not exist.
//
// With q(x) the quantized input (kernels/pointwise/run.h), p the prequant scales, sums over k:
//   w16a16     y = sum x p W
//   w8a16_fp8  y = (sum x p W8) * ws
//   w8a8_fp8   y = (sum q(x p) W8) * (xs * ws)
//   w8a8_int8  y = (sum q(x p) W8) * (xs * ws), the sum an exact integer
//   w4a16      y = sum x p ((u - zero) * ws)
//
// judge: called with a quantized input before it is multiplied, not where inputs are not quantized.
ComputePath run_linear_reference(const LinearDesc& desc, const LinearParams& params, const InputJudge& judge = {});

// What run_linear_reference computes for a desc, and its name: "cpu_reference_w8a8_fp8_static". Throws Error as it
// does.
ComputePath linear_reference_path(const LinearDesc& desc);
std::string linear_reference_name(const LinearDesc& desc);

// Rows [first_row, first_row + rows) of the weights as float, all scales but the activation's and prequant's applied:
// out [rows, k].
void dequantize_rows(const LinearDesc& desc, const LinearParams& params, int64_t first_row, int64_t rows, float* out);

}  // namespace qg
