#include "grid/models.h"

namespace qg {
namespace {

// Shapes from each model's config.json.
std::vector<KnownModel> make_models() {
  const auto llama3_scaling = [](double factor) {
    return RopeScaling{.factor = factor, .low_freq_factor = 1, .high_freq_factor = 4, .original_max_position = 8192};
  };
  std::vector<KnownModel> rows;
  rows.push_back({.name = "llama-3.2-3b",
                  .label = "Llama-3.2-3B",
                  .stem = "llama-3.2-3b-instruct",
                  .hub = "meta-llama/Llama-3.2-3B-Instruct",
                  .shape = {.family = "llama",
                            .layers = 28,
                            .hidden = 3072,
                            .heads = 24,
                            .kv_heads = 8,
                            .head_dim = 128,
                            .ffn = 8192,
                            .vocab = 128256,
                            .tied_embeddings = true,
                            .rope_theta = 500000,
                            .norm_epsilon = 1e-5,
                            .rope_scaling = llama3_scaling(32),
                            .max_position = 131072,
                            .sliding_window = {}}});
  rows.push_back({.name = "llama-3.1-8b",
                  .label = "Llama-3.1-8B",
                  .stem = "llama-3.1-8b-instruct",
                  .hub = "meta-llama/Llama-3.1-8B-Instruct",
                  .shape = {.family = "llama",
                            .layers = 32,
                            .hidden = 4096,
                            .heads = 32,
                            .kv_heads = 8,
                            .head_dim = 128,
                            .ffn = 14336,
                            .vocab = 128256,
                            .tied_embeddings = false,
                            .rope_theta = 500000,
                            .norm_epsilon = 1e-5,
                            .rope_scaling = llama3_scaling(8),
                            .max_position = 131072,
                            .sliding_window = {}}});
  rows.push_back({.name = "mistral-7b",
                  .label = "Mistral-7B",
                  .stem = "mistral-7b-instruct-v0.3",
                  .hub = "mistralai/Mistral-7B-Instruct-v0.3",
                  .shape = {.family = "mistral",
                            .layers = 32,
                            .hidden = 4096,
                            .heads = 32,
                            .kv_heads = 8,
                            .head_dim = 128,
                            .ffn = 14336,
                            .vocab = 32768,
                            .tied_embeddings = false,
                            .rope_theta = 1000000,
                            .norm_epsilon = 1e-5,
                            .rope_scaling = {},
                            .max_position = 32768,
                            .sliding_window = {}}});
  rows.push_back({.name = "smollm2-135m",
                  .label = "SmolLM2-135M",
                  .stem = "smollm2-135m-instruct",
                  .hub = "HuggingFaceTB/SmolLM2-135M-Instruct",
                  .shape = {.family = "llama",
                            .layers = 30,
                            .hidden = 576,
                            .heads = 9,
                            .kv_heads = 3,
                            .head_dim = 64,
                            .ffn = 1536,
                            .vocab = 49152,
                            .tied_embeddings = true,
                            .rope_theta = 100000,
                            .norm_epsilon = 1e-5,
                            .rope_scaling = {},
                            .max_position = 8192,
                            .sliding_window = {}}});
  return rows;
}

}  // namespace

const std::vector<KnownModel>& known_models() {
  static const std::vector<KnownModel> kRows = make_models();
  return kRows;
}

const KnownModel* find_known_model(std::string_view name) {
  for (const KnownModel& row : known_models())
    if (row.name == name) return &row;
  return nullptr;
}

}  // namespace qg
