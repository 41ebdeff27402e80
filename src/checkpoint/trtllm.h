#pragma once
// The TensorRT-LLM checkpoint layout: config.json and rank{N}.safetensors for N GPUs, what trtllm-build takes.
// Fields, names, shapes and packing: docs/checkpoints.md.
#include <functional>
#include <memory>
#include <optional>

#include "checkpoint/checkpoint.h"

namespace qg {

// "rank0.safetensors"
std::string trtllm_weights_file(int64_t rank);
inline constexpr int64_t kMaxTrtllmRanks = 64;

struct TrtllmConfig {
  std::string architecture;  // "LlamaForCausalLM"
  ModelShape shape;          // family is empty: the caller sets it from the architecture
  DType dtype = DType::f16;  // of what is not quantized
  QuantSpec quant;
  int64_t ranks = 1;                // GPUs (tensor parallel)
  bool parallel_embedding = false;  // the embedding is split among ranks, along embedding_axis
  int embedding_axis = 0;
};

// Throws Error on a quantization that we do not read, naming it, and on pipeline parallelism.
TrtllmConfig parse_trtllm_config(const Json& config, const std::string& where);
// Throws Error when the layout cannot hold `quant`.
Json make_trtllm_config(const TrtllmConfig& config);

// `make_table` is model's make_model_table; it is called when the tensors have told whether lm_head is the embedding.
// The ranks' parts are joined as they are read.
std::unique_ptr<Checkpoint> open_trtllm(const std::filesystem::path& folder, TrtllmConfig config,
                                        const std::function<ModelTable(const ModelShape&)>& make_table);
std::unique_ptr<CheckpointWriter> create_trtllm(const WriterOptions& options);

// A copy of `checkpoint` (layout trtllm), every tensor's bytes as they were: for another number of ranks (0: the same),
// or, where its KV format is still open, with that fixed: the layer's greater one of K and V scale as
// `attention.kv_cache_scaling_factor`, and kv_cache_quant_algo set. Without calibrated scales fp8 takes 1 and int8 is
// refused.
void rewrite_trtllm(const Checkpoint& checkpoint, std::optional<KvFormat> kv, int64_t ranks,
                    const std::filesystem::path& out);

// Layers whose K and V scale differ: the layout has one for both, the greater.
int64_t merged_kv_scales(const Checkpoint& checkpoint, KvFormat kv);

}  // namespace qg
