#pragma once
// The shape of a decoder-only transformer and the words for its tensors. src/model fills these tables per architecture;
// grid, checkpoint and quantize work on them without knowing one architecture from another.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "core/tensor.h"

namespace qg {

// "llama3" RoPE scaling: see RopeEmbedding in docs/architecture.md.
struct RopeScaling {
  double factor = 1, low_freq_factor = 1, high_freq_factor = 4;
  int64_t original_max_position = 8192;
  bool operator==(const RopeScaling&) const = default;
};

struct ModelShape {
  std::string family;  // row of the architecture table: "llama", "mistral"
  int64_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn = 0, vocab = 0;
  bool tied_embeddings = false;
  double rope_theta = 10000, norm_epsilon = 1e-5;
  std::optional<RopeScaling> rope_scaling;
  int64_t max_position = 0;
  std::optional<int64_t> sliding_window;  // tokens that a query sees, itself included; empty = all

  int64_t q_rows() const { return heads * head_dim; }
  int64_t kv_rows() const { return kv_heads * head_dim; }
  int64_t qkv_rows() const { return q_rows() + 2 * kv_rows(); }
  int64_t group() const { return heads / kv_heads; }  // query heads that share one KV head
  // Parameters in the five linear layers of all layers, and in one copy of the embedding.
  int64_t linear_params() const { return layers * (qkv_rows() * hidden + hidden * q_rows() + 3 * ffn * hidden); }
  int64_t embedding_params() const { return vocab * hidden; }
  int64_t kv_elements_per_token() const { return 2 * layers * kv_rows(); }
  bool operator==(const ModelShape&) const = default;
};

// Tensors that are never quantized.
enum class TensorRole { embedding, attention_norm, mlp_norm, final_norm, lm_head };
// The linear layers of one transformer layer, as the executors run them (q, k, v as one).
enum class LinearRole { qkv, attention_output, gate, up, down };

std::string_view to_string(TensorRole role);
std::string_view to_string(LinearRole role);

struct TensorSpec {
  TensorRole role;
  int layer = -1;  // -1: not part of a layer
  Shape shape;
  std::string hf_name;      // "model.norm.weight"
  std::string trtllm_name;  // "transformer.ln_f.weight"
};

struct LinearSpec {
  LinearRole role;
  int layer = 0;
  int64_t n = 0, k = 0;   // out and in features of the whole (fused) layer
  struct Part {           // matrices stacked along n, in this order
    std::string hf_name;  // "model.layers.0.self_attn.q_proj" (without ".weight")
    int64_t rows = 0;
  };
  std::vector<Part> parts;
  std::string trtllm_name;  // "transformer.layers.0.attention.qkv" (without ".weight")
  // Linear layers that read the same activation have the same group; it is also the name of the tap that yields it.
  std::string calibration_group;  // "layers.0.attention_in"
  // The norm whose weight may absorb a scale of this layer's input, when its input comes straight from one.
  std::optional<TensorRole> producer_norm;
  // The linear layer whose out features feed this input elementwise (up for down; qkv's v rows for attention_output).
  std::optional<LinearRole> producer_linear;
};

struct ModelTable {
  ModelShape shape;
  std::vector<TensorSpec> tensors;
  std::vector<LinearSpec> linears;

  const TensorSpec* find(TensorRole role, int layer = -1) const;  // null when the model has none (a tied lm_head)
  const LinearSpec& linear(LinearRole role, int layer) const;     // throws Error when absent
  std::vector<const LinearSpec*> layer_linears(int layer) const;
};

}  // namespace qg
