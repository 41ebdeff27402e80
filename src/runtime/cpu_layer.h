#pragma once
// One transformer layer on the CPU: what the executor runs and what the quantizers calibrate with.
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "core/model_shape.h"
#include "core/quant_spec.h"
#include "kernels/linear/run.h"
#include "runtime/executor.h"

namespace qg {

struct CpuLinear {
  LinearWeights weights;
  ActivationScaling activations = ActivationScaling::none;  // from the checkpoint's QuantSpec

  // x [m, k] → y [m, n]. Returns what was computed. judge: see run_linear_reference.
  ComputePath run(const float* x, int64_t m, float* y, const InputJudge& judge = {}) const;
  std::vector<float> dequantized() const;  // [n, k], without prequant and activation scales
  int64_t bytes() const;                   // of all its tensors
};

struct CpuLayer {
  std::vector<float> attention_norm, mlp_norm;  // [hidden]
  CpuLinear qkv, attention_output, gate, up, down;

  const CpuLinear& linear(LinearRole role) const;
  CpuLinear& linear(LinearRole role);
  int64_t bytes() const;
};

// Scales of K and V as they are, of all layers, for a cache format: the calibrated ones; 1 for fp16, and for fp8 where
// none were calibrated. Throws Error for int8 without calibrated scales.
std::vector<KvScale> kv_scales_for(const Checkpoint& checkpoint, KvFormat format);

// How one layer's K and V are stored.
struct KvLayerStorage {
  KvScale scale;
  const KvShaping* shaping = nullptr;  // belongs to the checkpoint; null: keys are stored as they are
};
// Of all layers: kv_scales_for, or, in an 8-bit format where the checkpoint has shaping, that and its scales for K.
std::vector<KvLayerStorage> kv_storage_for(const Checkpoint& checkpoint, KvFormat format);

CpuLayer load_cpu_layer(const Checkpoint& checkpoint, int layer);
// One linear layer, as load_cpu_layer makes it.
CpuLinear load_cpu_linear(const Checkpoint& checkpoint, const LinearSpec& spec);

// Rows of the embedding: out [tokens, hidden]. Throws Error when a token is outside the vocabulary.
void embed_tokens(const Checkpoint& checkpoint, std::span<const int32_t> tokens, float* out);

// One layer over whole sequences without a paged cache, for calibration: hidden [sum(lengths), hidden], in place. The
// tap (may be empty) gets attention_in, q, k (both after RoPE), v, attention_out, mlp_in, mlp_act and out of this
// layer, under the executor's names. kv: when set, K and V are quantized to that format and back, as the cache would
// do.
void run_layer(const ModelShape& shape, const CpuLayer& layer, int layer_index, std::span<const int64_t> lengths,
               float* hidden, const Tap& tap, std::optional<KvFormat> kv = {}, const KvLayerStorage& storage = {});

// Final norm and lm_head: hidden [m, hidden] (not changed) → logits [m, vocab].
struct CpuHead {
  std::vector<float> final_norm;  // [hidden]
  CpuLinear lm_head;              // the embedding where it is tied
};
CpuHead load_cpu_head(const Checkpoint& checkpoint);
void run_head(const ModelShape& shape, const CpuHead& head, const float* hidden, int64_t m, float* logits);

}  // namespace qg
