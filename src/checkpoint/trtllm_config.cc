#include <array>
#include <map>

#include "checkpoint/trtllm.h"
#include "checkpoint/trtllm_linear.h"
#include "core/error.h"
#include "core/version.h"

namespace qg {
namespace {

constexpr std::array<std::pair<DType, const char*>, 3> kTypes{
    {{DType::f16, "float16"}, {DType::bf16, "bfloat16"}, {DType::f32, "float32"}}};

DType parse_type(const JsonReader& reader) {
  const std::string name = reader.get_string("dtype");
  for (const auto& [dtype, text] : kTypes)
    if (name == text) return dtype;
  throw Error("\"dtype\" is \"" + name + "\", should be float16, bfloat16 or float32", reader.where());
}

const char* type_name(DType dtype) {
  for (const auto& [value, text] : kTypes)
    if (value == dtype) return text;
  throw Error("a checkpoint's dtype must be F16, BF16 or F32, not " + std::string(to_string(dtype)));
}

void must_be(const JsonReader& reader, const char* key, const std::string& wanted) {
  const std::string value = reader.get_string(key, wanted);
  if (value != wanted)
    throw Error("\"" + std::string(key) + "\" is \"" + value + "\", supported is \"" + wanted + "\"", reader.where());
}

void check_fixed_keys(const JsonReader& reader) {
  must_be(reader, "hidden_act", "silu");
  // The default of this field is learned_absolute, so a RoPE model must name it.
  const std::string position = reader.get_string("position_embedding_type", "learned_absolute");
  if (position != "rope_gpt_neox")
    throw Error("\"position_embedding_type\" is \"" + position + "\", supported is \"rope_gpt_neox\"", reader.where());
  for (const char* key : {"attn_bias", "mlp_bias", "qk_layernorm", "residual_mlp", "bias", "lm_head_bias"})
    if (reader.get_bool(key, false))
      throw Error("\"" + std::string(key) + "\" is true, which is not supported", reader.where());
  if (reader.get_double("rotary_pct", 1.0) != 1.0)
    throw Error("\"rotary_pct\" is not 1, which is not supported", reader.where());
}

// Tensor parallel only: every rank has a part of every layer.
void parse_ranks(const Json& config, const JsonReader& reader, TrtllmConfig& parsed) {
  parsed.parallel_embedding = reader.get_bool("use_parallel_embedding", false);
  parsed.embedding_axis = static_cast<int>(reader.get_int("embedding_sharding_dim", 0, 0, 1));
  if (!reader.has("mapping")) return;
  const JsonReader mapping(config.at("mapping"), reader.where() + ", \"mapping\"");
  for (const char* key : {"pp_size", "cp_size"})
    if (mapping.get_int(key, 1) != 1)
      throw Error("\"" + std::string(key) + "\" is " + std::to_string(mapping.get_int(key)) +
                      "; only tensor-parallel checkpoints are read",
                  mapping.where(), "make the checkpoint again with pp_size 1");
  parsed.ranks = mapping.get_int("tp_size", 1, 1, kMaxTrtllmRanks);
  const int64_t world = mapping.get_int("world_size", parsed.ranks);
  if (world != parsed.ranks)
    throw Error("\"world_size\" is " + std::to_string(world) + ", but \"tp_size\" is " + std::to_string(parsed.ranks),
                mapping.where());
}

ModelShape parse_shape(const Json& config, const JsonReader& reader) {
  ModelShape shape;
  shape.layers = reader.get_int("num_hidden_layers", {}, 1, 1024);
  shape.hidden = reader.get_int("hidden_size", {}, 1, 1 << 17);
  shape.heads = reader.get_int("num_attention_heads", {}, 1, 4096);
  shape.kv_heads = reader.get_int("num_key_value_heads", shape.heads, 1, 4096);
  shape.head_dim = reader.get_int("head_size", shape.hidden / shape.heads, 1, 4096);
  shape.ffn = reader.get_int("intermediate_size", 4 * shape.hidden, 1, 1 << 20);
  shape.vocab = reader.get_int("vocab_size", {}, 1, 1 << 24);
  shape.tied_embeddings = reader.get_bool("share_embedding_table", false);
  shape.rope_theta = reader.get_double("rotary_base", 10000.0);
  shape.norm_epsilon = reader.get_double("norm_epsilon", 1e-5);
  shape.max_position = reader.get_int("max_position_embeddings", 2048, 1, INT32_MAX);
  if (reader.has("rotary_scaling"))
    shape.rope_scaling = parse_rope_scaling(config.at("rotary_scaling"), reader.where() + ", \"rotary_scaling\"");
  if (reader.has("sliding_window")) shape.sliding_window = reader.get_int("sliding_window", {}, 1, INT32_MAX);
  check_shape_limits(shape, reader.where());
  return shape;
}

std::vector<std::string> parse_exclude(const JsonReader& reader) {
  if (!reader.has("exclude_modules")) return {};
  const Json& list = reader.get("exclude_modules");
  if (!list.is_array()) throw Error("\"exclude_modules\" should be a list of names", reader.where());
  std::vector<std::string> names;
  for (const Json& name : list) {
    if (!name.is_string()) throw Error("\"exclude_modules\" should be a list of names", reader.where());
    names.push_back(name.get<std::string>());
  }
  return names;
}

std::optional<KvFormat> parse_kv(const JsonReader& reader) {
  if (!reader.has("kv_cache_quant_algo")) return {};
  const std::string name = reader.get_string("kv_cache_quant_algo");
  if (name == "FP8") return KvFormat::fp8;
  if (name == "INT8") return KvFormat::int8;
  throw Error("\"kv_cache_quant_algo\" is \"" + name + "\", supported are FP8, INT8 and null", reader.where());
}

QuantSpec parse_quant(const Json& config, const std::string& where) {
  QuantSpec quant;
  if (!config.contains("quantization") || config.at("quantization").is_null()) return quant;
  const JsonReader reader(config.at("quantization"), where + ", \"quantization\"");
  const TrtllmAlgo algo = parse_trtllm_algo(reader.get_string("quant_algo", ""), reader.where());
  quant = quant_of_trtllm_algo(algo);
  if (algo == TrtllmAlgo::int4_awq) {
    quant.group_size = reader.get_int("group_size", 128, 1, 1 << 20);
    quant.prequant_scales = reader.get_bool("pre_quant_scale", false);
    if (reader.get_bool("has_zero_point", false))
      throw Error("\"has_zero_point\" is true, which is not supported for W4A16_AWQ", reader.where());
  }
  quant.fixed_kv = parse_kv(reader);
  quant.exclude = parse_exclude(reader);
  return quant;
}

Json make_quant(const QuantSpec& quant) {
  const TrtllmAlgo algo = trtllm_algo(quant);
  Json json = Json::object();
  json["quant_algo"] = algo == TrtllmAlgo::none ? Json(nullptr) : Json(std::string(to_string(algo)));
  json["kv_cache_quant_algo"] = nullptr;
  if (quant.fixed_kv == KvFormat::fp8) json["kv_cache_quant_algo"] = "FP8";
  if (quant.fixed_kv == KvFormat::int8) json["kv_cache_quant_algo"] = "INT8";
  if (algo == TrtllmAlgo::int4_awq) json["group_size"] = quant.group_size;
  if (algo == TrtllmAlgo::int4_awq) json["has_zero_point"] = false;
  json["pre_quant_scale"] = algo == TrtllmAlgo::int4_awq && quant.prequant_scales;
  json["smoothquant_val"] = nullptr;  // the strength is in the lineage: it may differ from layer to layer
  json["clamp_val"] = nullptr;
  json["exclude_modules"] = algo == TrtllmAlgo::none ? Json(nullptr) : Json(std::vector<std::string>{"lm_head"});
  return json;
}

}  // namespace

TrtllmConfig parse_trtllm_config(const Json& config, const std::string& where) {
  const JsonReader reader(config, where);
  TrtllmConfig parsed;
  parsed.architecture = reader.get_string("architecture");
  parsed.dtype = parse_type(reader);
  check_fixed_keys(reader);
  parse_ranks(config, reader, parsed);
  parsed.shape = parse_shape(config, reader);
  parsed.quant = parse_quant(config, where);
  return parsed;
}

Json make_trtllm_config(const TrtllmConfig& config) {
  const ModelShape& s = config.shape;
  Json json{{"producer", {{"name", "quantgrid"}, {"version", version()}}},
            {"architecture", config.architecture},
            {"dtype", type_name(config.dtype)},
            {"logits_dtype", "float32"},
            {"num_hidden_layers", s.layers},
            {"num_attention_heads", s.heads},
            {"num_key_value_heads", s.kv_heads},
            {"head_size", s.head_dim},
            {"hidden_size", s.hidden},
            {"intermediate_size", s.ffn},
            {"norm_epsilon", s.norm_epsilon},
            {"vocab_size", s.vocab},
            {"max_position_embeddings", s.max_position},
            {"position_embedding_type", "rope_gpt_neox"},
            {"hidden_act", "silu"},
            {"rotary_base", s.rope_theta},
            {"rotary_scaling", make_rope_scaling(s.rope_scaling)},
            {"use_parallel_embedding", config.parallel_embedding},
            {"embedding_sharding_dim", config.embedding_axis},
            {"share_embedding_table", s.tied_embeddings},
            {"attn_bias", false},
            {"mlp_bias", false},
            {"qk_layernorm", false},
            {"residual_mlp", false},
            {"disable_weight_only_quant_plugin", false},
            {"remove_duplicated_kv_heads", false},
            {"mapping", {{"world_size", config.ranks}, {"tp_size", config.ranks}, {"pp_size", 1}}},
            {"quantization", make_quant(config.quant)}};
  // No field of the layout: TensorRT-LLM takes the window at run time. Other readers ignore it.
  if (s.sliding_window) json["sliding_window"] = *s.sliding_window;
  return json;
}

}  // namespace qg
