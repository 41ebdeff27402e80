#pragma once
// Every tensor of a TensorRT-LLM checkpoint: name, dtype, whole shape, and how it is split among ranks.
#include <string>
#include <vector>

#include "checkpoint/safetensors.h"
#include "checkpoint/trtllm.h"
#include "checkpoint/trtllm_ranks.h"
#include "core/model_shape.h"

namespace qg {

struct TrtllmTensor {
  TensorEntry entry;  // of the whole
  RankRule rule;
  const TensorSpec* spec = nullptr;  // where it is one of the table's tensors: its rows may be padded (vocabulary)
};

// In the order of the table. `table` must outlive the result.
std::vector<TrtllmTensor> trtllm_tensors(const ModelTable& table, const TrtllmConfig& config);

// "transformer.layers.3.attention.qkv" → "transformer.layers.3.attention"
std::string parent_module(const std::string& name);
std::string kv_scale_name(const ModelTable& table, int layer);  // of the one scale for K and V
// The plugin layout hands a norm's output to int8 through these; per token they are placeholders of 1.
std::vector<std::string> scale_to_int_names(const ModelTable& table);
bool fixes_kv(const QuantSpec& quant);
// The embedding and lm_head: rows beyond the vocabulary may be padding.
bool is_vocabulary(const TensorSpec& spec);

}  // namespace qg
