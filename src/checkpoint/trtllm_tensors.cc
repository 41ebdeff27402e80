#include "checkpoint/trtllm_tensors.h"

#include "checkpoint/trtllm_linear.h"

namespace qg {
namespace {

RankRule tensor_rule(const TensorSpec& spec, const TrtllmConfig& config) {
  RankRule rule;
  if (spec.role == TensorRole::lm_head) rule.axis = 0;
  if (spec.role == TensorRole::embedding && config.parallel_embedding) rule.axis = config.embedding_axis;
  return rule;
}

}  // namespace

std::string parent_module(const std::string& name) {
  return name.substr(0, name.rfind('.'));
}

std::string kv_scale_name(const ModelTable& table, int layer) {
  return parent_module(table.linear(LinearRole::qkv, layer).trtllm_name) + ".kv_cache_scaling_factor";
}

std::vector<std::string> scale_to_int_names(const ModelTable& table) {
  std::vector<std::string> names;
  for (const TensorSpec& spec : table.tensors)
    if (spec.role == TensorRole::attention_norm || spec.role == TensorRole::mlp_norm)
      names.push_back(parent_module(spec.trtllm_name) + ".scale_to_int");
  return names;
}

bool fixes_kv(const QuantSpec& quant) {
  return quant.fixed_kv && *quant.fixed_kv != KvFormat::fp16;
}

bool is_vocabulary(const TensorSpec& spec) {
  return spec.role == TensorRole::embedding || spec.role == TensorRole::lm_head;
}

std::vector<TrtllmTensor> trtllm_tensors(const ModelTable& table, const TrtllmConfig& config) {
  std::vector<TrtllmTensor> tensors;
  for (const TensorSpec& spec : table.tensors)
    tensors.push_back({{spec.trtllm_name, config.dtype, spec.shape}, tensor_rule(spec, config), &spec});
  for (const LinearSpec& spec : table.linears)
    for (TensorEntry& entry : trtllm_linear_entries(spec, config.quant, config.dtype)) {
      const std::string suffix = entry.name.substr(spec.trtllm_name.size());
      tensors.push_back({entry, linear_rank_rule(spec, suffix, entry.shape, config.quant.weights), nullptr});
    }
  if (trtllm_algo(config.quant) == TrtllmAlgo::int8_per_token)
    for (const std::string& name : scale_to_int_names(table)) tensors.push_back({{name, DType::f32, {1}}, {}, nullptr});
  if (fixes_kv(config.quant))
    for (int layer = 0; layer < table.shape.layers; ++layer)
      tensors.push_back({{kv_scale_name(table, layer), DType::f32, {1}}, {}, nullptr});
  return tensors;
}

}  // namespace qg
