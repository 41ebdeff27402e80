#pragma once
// Random weights in a real model's shapes: for speed without a download, and for tests of memory. The numbers follow
// from (seed, tensor, index) alone, in integer arithmetic and exact scalings, so that every machine makes the same
// bytes.
#include <filesystem>

#include "checkpoint/checkpoint.h"

namespace qg {

struct SyntheticOptions {
  uint64_t seed = 0;
  DType dtype = DType::f16;
  // Channels of the residual stream that every norm amplifies by 20, as real models have a few: what makes
  // per-tensor activation scales hard.
  int64_t outliers = 0;
};

// A tensor of the model. Scaled so that activations stay near 1: embedding 0.02, norms near 1, linear layers
// 1/sqrt(k), those that write to the residual stream smaller by sqrt(2 · layers).
Tensor synthetic_tensor(const TensorSpec& spec, const ModelShape& shape, const SyntheticOptions& options);
Tensor synthetic_linear(const LinearSpec& spec, const ModelShape& shape, const SyntheticOptions& options);

// Writes a Hugging Face folder, one tensor in memory at a time, with a byte-level tokenizer.
void write_synthetic_model(const ModelTable& table, const HfRules& rules, const SyntheticOptions& options,
                           const std::filesystem::path& out);

}  // namespace qg
