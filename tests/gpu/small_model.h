#pragma once
// Small random models of the real head sizes and groups, for tests of the CUDA executor.
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "model/architecture.h"
#include "quantize/recipe.h"
#include "quantize/synthetic_checkpoint.h"
#include "runtime/executor.h"

namespace qg::testing {

struct Model {
  int64_t heads = 8, kv_heads = 2, head_dim = 64, hidden = 256, ffn = 512, vocab = 1000, layers = 2;
  WeightFormat weights = WeightFormat::fp16;
  std::optional<ActivationScaling> activations;  // empty: the recipe's
  std::optional<int64_t> window;
  bool tied = false;
  DType dtype = DType::f16;  // of what is not quantized
};

inline std::shared_ptr<const Checkpoint> make_model(const Model& m) {
  ModelShape s;
  s.family = m.window ? "mistral" : "llama";
  s.layers = m.layers, s.hidden = m.hidden, s.heads = m.heads, s.kv_heads = m.kv_heads, s.head_dim = m.head_dim;
  s.ffn = m.ffn, s.vocab = m.vocab, s.max_position = 2048, s.sliding_window = m.window, s.tied_embeddings = m.tied;
  const ModelTable table = make_model_table(s);
  QuantSpec quant;
  if (m.weights != WeightFormat::fp16) {
    const Recipe recipe = default_recipe(m.weights);
    std::vector<int64_t> widths;
    for (const LinearSpec& linear : table.linears) widths.push_back(linear.k);
    quant = recipe.spec(widths);
    quant.prequant_scales = false;
    if (m.activations) quant.activations = *m.activations;
  }
  SyntheticOptions options;
  options.seed = 7;
  options.dtype = m.dtype;
  return make_synthetic_checkpoint(table, quant, options);
}

inline ExecutorOptions options_for(KvFormat kv) {
  ExecutorOptions options;
  options.kv = kv;
  options.page_tokens = 64;
  options.num_pages = 64;
  options.max_rows = 512;
  options.max_pieces = 64;
  return options;
}

}  // namespace qg::testing
