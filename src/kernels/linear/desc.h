#pragma once
// y[m, n] = x[m, k] * W[n, k]^T with quantized weights: what is asked for, without pointers.
#include <cstdint>
#include <string>

#include "core/dtype.h"
#include "core/format.h"
#include "core/quant_spec.h"

namespace qg {

struct LinearDesc {
  int64_t m = 0, n = 0, k = 0;
  WeightFormat weights = WeightFormat::fp16;
  DType weight_dtype = DType::f16;  // F16, BF16, F32 for fp16 weights; F8_E4M3, I8, U8 (two nibbles) otherwise
  WeightScaling weight_scaling = WeightScaling::none;
  ActivationScaling activations = ActivationScaling::none;
  int64_t group_size = 0;
  bool zero_points = false;
  bool prequant = false;
  DType activation_dtype = DType::f32;  // of x and y: F32 in the CPU executor, F16 or BF16 on a GPU
  bool operator==(const LinearDesc&) const = default;
};

std::string to_string(const LinearDesc& desc);  // "linear m=1 n=6144 k=4096 fp8 tensor static"

// The desc of m rows through stored weights. `activations` comes from the checkpoint's QuantSpec: weights alone do not
// tell a dynamic scale from none. It is ignored where the weights' format has none (fp16, int4_awq), and an input scale
// stored with the weights makes it static. Throws Error when tensors are missing or of the wrong type or shape.
LinearDesc describe_linear(const LinearWeights& weights, ActivationScaling activations, int64_t m);

}  // namespace qg
