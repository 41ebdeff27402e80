#pragma once
// How a checkpoint's linear layers are quantized, and the one form in which a layer's stored bytes travel: quantizers
// make it, checkpoint layouts convert to and from it, executors load it.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/format.h"
#include "core/tensor.h"

namespace qg {

enum class WeightScaling { none, tensor, channel, group };  // one scale a matrix, an output row, k/group per row
enum class ActivationScaling { none, static_tensor, dynamic_token };  // none: the activation stays 16-bit

struct QuantSpec {
  WeightFormat weights = WeightFormat::fp16;
  WeightScaling weight_scaling = WeightScaling::none;
  ActivationScaling activations = ActivationScaling::none;
  int64_t group_size = 0;        // inputs that share an int4 scale; 0 when not grouped
  bool zero_points = false;      // asymmetric int4
  bool prequant_scales = false;  // some layers scale their input explicitly (int4_awq, int8_sq)
  std::optional<KvFormat>
      fixed_kv;  // set when the layout fixes the KV format (TensorRT backend); empty = run-time choice
  std::vector<std::string> exclude;  // modules left unquantized, as the folder names them ("lm_head")
  bool operator==(const QuantSpec&) const = default;
};

struct LinearWeights {
  WeightFormat format = WeightFormat::fp16;
  int64_t n = 0, k = 0;
  // fp16: F16, BF16 or F32 [n, k].  fp8: F8_E4M3 [n, k].  int8_sq: I8 [n, k].
  // int4_awq: U8 [n, k/2]; the low nibble is the even column; a nibble holds u = 0..15 and means (u - zero) * scale.
  Tensor weight;
  Tensor weight_scale;    // F32: fp8 [1] or [n]; int8_sq [n]; int4_awq [n, k/group_size]; fp16: empty
  Tensor zero_point;      // U8 [n, k/group_size], asymmetric int4 only; empty = 8 everywhere
  Tensor input_scale;     // F32 [1]: static activation scale, x ~ q * s; empty = dynamic per token, or not quantized
  Tensor prequant_scale;  // F32 [k]: the input is multiplied by it first; empty = ones
  int64_t group_size = 0;
};

// One K and one V scale of a layer: stored = round(x / scale).
struct KvScale {
  float k = 1, v = 1;
};
// How one layer's keys are changed before an 8-bit cache rounds them, and its queries to match
// (docs/kv-cache-notes.md). Matrices are [kv_heads, head_dim, head_dim]; row j is what element j of the input adds to
// each element of the output. Their values are such that F16 holds them exactly.
struct KvShaping {
  std::vector<float> k_center;     // [kv_heads, head_dim]: subtracted from the keys, after RoPE
  std::vector<float> k_transform;  // applied to the centred keys
  std::vector<float> q_transform;  // applied to the queries after RoPE: the transposed inverse of k_transform
  // Row j: what the rounding error of element j takes from the elements after it; zero on and left of the diagonal.
  std::vector<float> k_feedback;
  float fp8_k_scale = 1, int8_k_scale = 1;  // of the changed keys; V keeps its scale
  float k_scale(KvFormat f) const { return f == KvFormat::int8 ? int8_k_scale : fp8_k_scale; }
};
// Calibrated scales per layer; a format that was not calibrated has an empty list (then scales are 1 for fp8, and int8
// is refused). shaping: one a layer, or empty; it serves both 8-bit formats and needs the lists of both.
struct KvScales {
  std::vector<KvScale> fp8, int8;
  std::vector<KvShaping> shaping;
  const std::vector<KvScale>& of(KvFormat f) const { return f == KvFormat::int8 ? int8 : fp8; }
};

}  // namespace qg
