#include "quantize/layer_result.h"

#include <algorithm>

#include "core/error.h"

namespace qg {
namespace {

constexpr LinearRole kRoles[] = {LinearRole::qkv, LinearRole::attention_output, LinearRole::gate, LinearRole::up,
                                 LinearRole::down};

Tensor floats(const std::vector<float>& values) {
  return tensor_from_f32(values, {static_cast<int64_t>(values.size())});
}

Tensor optional_tensor(const SafetensorsFile& file, const std::string& name) {
  const StoredTensor* stored = file.find(name);
  return stored ? file.view(*stored) : Tensor();
}

Tensor tensor_of(const SafetensorsFile& file, const std::string& name) {
  Tensor tensor = optional_tensor(file, name);
  if (tensor.empty())
    throw Error("tensor " + name + " is missing", file.path().string(),
                "remove the folder to start from the beginning");
  return tensor;
}

std::vector<float> values_of(const SafetensorsFile& file, const std::string& name) {
  return to_f32(tensor_of(file, name));
}

}  // namespace

void LayerResult::take(const std::vector<LinearRole>& roles, GroupResult result, std::vector<float>* norm,
                       const std::string& group) {
  for (size_t i = 0; i < roles.size(); ++i) linears[roles[i]] = std::move(result.linears[i]);
  if (norm)
    for (size_t j = 0; j < result.norm_multiplier.size(); ++j) (*norm)[j] *= result.norm_multiplier[j];
  ++groups;
  error_sum += result.relative_error;
  if (result.relative_error > worst_error) {
    worst_error = result.relative_error;
    worst_group = group;
  }
}

void add_tensors(const LayerResult& result, const std::string& prefix, NamedTensors& to) {
  for (const auto& [role, w] : result.linears) {
    const std::string name = prefix + std::string(to_string(role)) + ".";
    const std::pair<const char*, const Tensor*> parts[] = {{"weight", &w.weight},
                                                           {"weight_scale", &w.weight_scale},
                                                           {"zero_point", &w.zero_point},
                                                           {"input_scale", &w.input_scale},
                                                           {"prequant_scale", &w.prequant_scale}};
    for (const auto& [part, tensor] : parts)
      if (!tensor->empty()) to.emplace_back(name + part, *tensor);
    to.emplace_back(name + "form", floats({static_cast<float>(w.format), static_cast<float>(w.n),
                                           static_cast<float>(w.k), static_cast<float>(w.group_size)}));
  }
  to.emplace_back(prefix + "attention_norm", floats(result.attention_norm));
  to.emplace_back(prefix + "mlp_norm", floats(result.mlp_norm));
  to.emplace_back(prefix + "errors",
                  floats({static_cast<float>(result.error_sum), static_cast<float>(result.worst_error),
                          static_cast<float>(result.groups), static_cast<float>(result.seconds)}));
  NewTensor name = new_tensor(DType::u8, {static_cast<int64_t>(result.worst_group.size())});
  std::transform(result.worst_group.begin(), result.worst_group.end(), name.as<uint8_t>(),
                 [](char c) { return static_cast<uint8_t>(c); });
  to.emplace_back(prefix + "worst_group", name.tensor);
}

LayerResult read_layer_result(const SafetensorsFile& file, const std::string& prefix) {
  LayerResult result;
  for (const LinearRole role : kRoles) {
    const std::string name = prefix + std::string(to_string(role)) + ".";
    const std::vector<float> form = values_of(file, name + "form");
    LinearWeights& w = result.linears[role];
    w.format = static_cast<WeightFormat>(static_cast<int>(form.at(0)));
    w.n = static_cast<int64_t>(form.at(1));
    w.k = static_cast<int64_t>(form.at(2));
    w.group_size = static_cast<int64_t>(form.at(3));
    w.weight = tensor_of(file, name + "weight");
    w.weight_scale = optional_tensor(file, name + "weight_scale");
    w.zero_point = optional_tensor(file, name + "zero_point");
    w.input_scale = optional_tensor(file, name + "input_scale");
    w.prequant_scale = optional_tensor(file, name + "prequant_scale");
  }
  result.attention_norm = values_of(file, prefix + "attention_norm");
  result.mlp_norm = values_of(file, prefix + "mlp_norm");
  const std::vector<float> errors = values_of(file, prefix + "errors");
  result.error_sum = static_cast<double>(errors.at(0));
  result.worst_error = static_cast<double>(errors.at(1));
  result.groups = static_cast<int64_t>(errors.at(2));
  result.seconds = static_cast<double>(errors.at(3));
  const Tensor name = optional_tensor(file, prefix + "worst_group");
  if (!name.empty()) result.worst_group.assign(reinterpret_cast<const char*>(name.data), name.bytes());
  return result;
}

void add_tensors(const LayerKv& kv, NamedTensors& to) {
  to.emplace_back("kv.scales",
                  floats({kv.fp8.k, kv.fp8.v, kv.int8.k, kv.int8.v, kv.shaping.fp8_k_scale, kv.shaping.int8_k_scale}));
  to.emplace_back("kv.k_center", floats(kv.shaping.k_center));
  to.emplace_back("kv.k_transform", floats(kv.shaping.k_transform));
  to.emplace_back("kv.q_transform", floats(kv.shaping.q_transform));
  to.emplace_back("kv.k_feedback", floats(kv.shaping.k_feedback));
  to.emplace_back("kv.value_max", floats(kv.value_max));
  to.emplace_back("kv.values", floats(kv.values));
}

LayerKv read_layer_kv(const SafetensorsFile& file) {
  const std::vector<float> scales = values_of(file, "kv.scales");
  LayerKv kv;
  kv.fp8 = {scales.at(0), scales.at(1)};
  kv.int8 = {scales.at(2), scales.at(3)};
  kv.shaping.fp8_k_scale = scales.at(4);
  kv.shaping.int8_k_scale = scales.at(5);
  kv.shaping.k_center = values_of(file, "kv.k_center");
  kv.shaping.k_transform = values_of(file, "kv.k_transform");
  kv.shaping.q_transform = values_of(file, "kv.q_transform");
  kv.shaping.k_feedback = values_of(file, "kv.k_feedback");
  kv.value_max = values_of(file, "kv.value_max");
  kv.values = values_of(file, "kv.values");
  return kv;
}

}  // namespace qg
