#pragma once
// The TensorRT-LLM checkpoint layout: config.json and rank0.safetensors, what trtllm-build takes. One GPU only.
// Fields, names, shapes and packing: docs/checkpoints.md.
#include <functional>
#include <memory>

#include "checkpoint/checkpoint.h"

namespace qg {

inline constexpr const char* kTrtllmWeightsFile = "rank0.safetensors";

struct TrtllmConfig {
  std::string architecture;  // "LlamaForCausalLM"
  ModelShape shape;          // family is empty: the caller sets it from the architecture
  DType dtype = DType::f16;  // of what is not quantized
  QuantSpec quant;
};

// Throws Error on a quantization that we do not read, naming it, and on more than one rank.
TrtllmConfig parse_trtllm_config(const Json& config, const std::string& where);
// Throws Error when the layout cannot hold `quant`.
Json make_trtllm_config(const TrtllmConfig& config);

// `make_table` is model's make_model_table; it is called when the tensors have told whether lm_head is the embedding.
std::unique_ptr<Checkpoint> open_trtllm(const std::filesystem::path& folder, TrtllmConfig config,
                                        const std::function<ModelTable(const ModelShape&)>& make_table);
std::unique_ptr<CheckpointWriter> create_trtllm(const WriterOptions& options);

// A copy of `checkpoint` (layout trtllm, KV format still open) whose KV format is fixed: every tensor as it was, the
// layer's greater one of K and V scale as `attention.kv_cache_scaling_factor`, and kv_cache_quant_algo set. Without
// calibrated scales fp8 takes 1 and int8 is refused.
void write_fixed_kv(const Checkpoint& checkpoint, KvFormat kv, const std::filesystem::path& out);

}  // namespace qg
