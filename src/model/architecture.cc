#include "model/architecture.h"

#include "core/error.h"

namespace qg {
namespace {

// A row per family. All of them have the tensors of build_table(); what differs is how config.json spells the shape.
// Mistral: a sliding window, and other defaults where a key is absent (transformers, MistralConfig).
const std::vector<HfRules>& families() {
  static const std::vector<HfRules> kFamilies{
      {.architecture = "LlamaForCausalLM", .model_type = "llama", .family = "llama", .default_sliding_window = {}},
      {.architecture = "MistralForCausalLM",
       .model_type = "mistral",
       .family = "mistral",
       .default_kv_heads = 8,
       .default_max_position = 131072,
       .sliding_window = true,
       .default_sliding_window = 4096},
  };
  return kFamilies;
}

void add_layer(ModelTable& table, int layer) {
  const ModelShape& s = table.shape;
  const std::string hf = "model.layers." + std::to_string(layer) + ".";
  const std::string trt = "transformer.layers." + std::to_string(layer) + ".";
  const std::string tap = "layers." + std::to_string(layer) + ".";

  table.tensors.push_back(
      {TensorRole::attention_norm, layer, {s.hidden}, hf + "input_layernorm.weight", trt + "input_layernorm.weight"});
  table.tensors.push_back(
      {TensorRole::mlp_norm, layer, {s.hidden}, hf + "post_attention_layernorm.weight", trt + "post_layernorm.weight"});

  const auto linear = [&](LinearRole role, int64_t n, int64_t k, std::vector<LinearSpec::Part> parts,
                          const char* trtllm_name, const char* group) -> LinearSpec& {
    table.linears.push_back({role, layer, n, k, std::move(parts), trt + trtllm_name, tap + group, {}, {}});
    return table.linears.back();
  };
  linear(LinearRole::qkv, s.qkv_rows(), s.hidden,
         {{hf + "self_attn.q_proj", s.q_rows()},
          {hf + "self_attn.k_proj", s.kv_rows()},
          {hf + "self_attn.v_proj", s.kv_rows()}},
         "attention.qkv", "attention_in")
      .producer_norm = TensorRole::attention_norm;
  linear(LinearRole::attention_output, s.hidden, s.q_rows(), {{hf + "self_attn.o_proj", s.hidden}}, "attention.dense",
         "attention_out")
      .producer_linear = LinearRole::qkv;
  // TensorRT-LLM calls the branch under SiLU "fc" and the other one "gate".
  linear(LinearRole::gate, s.ffn, s.hidden, {{hf + "mlp.gate_proj", s.ffn}}, "mlp.fc", "mlp_in").producer_norm =
      TensorRole::mlp_norm;
  linear(LinearRole::up, s.ffn, s.hidden, {{hf + "mlp.up_proj", s.ffn}}, "mlp.gate", "mlp_in").producer_norm =
      TensorRole::mlp_norm;
  linear(LinearRole::down, s.hidden, s.ffn, {{hf + "mlp.down_proj", s.hidden}}, "mlp.proj", "mlp_act").producer_linear =
      LinearRole::up;
}

}  // namespace

ModelTable make_model_table(const ModelShape& shape) {
  hf_rules_of_family(shape.family);  // throws when unknown
  check_shape_limits(shape, shape.family + " model");
  ModelTable table;
  table.shape = shape;
  table.tensors.push_back({TensorRole::embedding,
                           -1,
                           {shape.vocab, shape.hidden},
                           "model.embed_tokens.weight",
                           "transformer.vocab_embedding.weight"});
  for (int layer = 0; layer < shape.layers; ++layer) add_layer(table, layer);
  table.tensors.push_back({TensorRole::final_norm, -1, {shape.hidden}, "model.norm.weight", "transformer.ln_f.weight"});
  if (!shape.tied_embeddings)
    table.tensors.push_back({TensorRole::lm_head, -1, {shape.vocab, shape.hidden}, "lm_head.weight", "lm_head.weight"});
  return table;
}

std::optional<std::string> family_of_architecture(const std::string& architecture) {
  for (const HfRules& row : families())
    if (row.architecture == architecture) return row.family;
  return {};
}

std::string architecture_of_family(const std::string& family) {
  return hf_rules_of_family(family).architecture;
}

const HfRules& hf_rules_of_family(const std::string& family) {
  for (const HfRules& row : families())
    if (row.family == family) return row;
  throw Error("model family \"" + family + "\" is not known", "", "known are llama and mistral");
}

std::vector<std::string> known_architectures() {
  std::vector<std::string> names;
  for (const HfRules& row : families()) names.push_back(row.architecture);
  return names;
}

}  // namespace qg
