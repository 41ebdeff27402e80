#include "checkpoint/hf_config.h"

#include <map>

#include "core/error.h"

namespace qg {
namespace {

constexpr const char* kOnlyFix = "only models that do not need this can be run";

int64_t dimension(const JsonReader& reader, const char* key, int64_t max) {
  return reader.get_int(key, {}, 1, max);
}

void must_be_false(const JsonReader& reader, const char* key) {
  if (reader.get_bool(key, false))
    throw Error("\"" + std::string(key) + "\" is true, which is not supported", reader.where(), kOnlyFix);
}

void check_fixed_keys(const JsonReader& reader) {
  const std::string activation = reader.get_string("hidden_act", "silu");
  if (activation != "silu" && activation != "swish")  // two names of one function
    throw Error("\"hidden_act\" is \"" + activation + "\", supported is \"silu\"", reader.where(), kOnlyFix);
  for (const char* key : {"attention_bias", "mlp_bias", "qkv_bias", "is_encoder_decoder"}) must_be_false(reader, key);
  if (reader.get_double("partial_rotary_factor", 1.0) != 1.0)
    throw Error("\"partial_rotary_factor\" is not 1, which is not supported", reader.where(), kOnlyFix);
}

DType parse_torch_dtype(const JsonReader& reader) {
  const std::string name = reader.get_string(reader.has("dtype") ? "dtype" : "torch_dtype", "float32");
  static const std::map<std::string, DType> kTypes{
      {"float16", DType::f16}, {"bfloat16", DType::bf16}, {"float32", DType::f32}, {"auto", DType::f32}};
  const auto found = kTypes.find(name.starts_with("torch.") ? name.substr(6) : name);
  if (found == kTypes.end())
    throw Error("dtype \"" + name + "\" is not supported", reader.where(), "use float16, bfloat16 or float32 weights");
  return found->second;
}

// RoPE stands at the top level (transformers 4) or in "rope_parameters" (transformers 5), or in both.
void parse_rope(const Json& config, const JsonReader& reader, ModelShape& shape) {
  const bool nested = reader.has("rope_parameters");
  std::optional<double> inner, outer;
  if (reader.has("rope_theta")) outer = reader.get_double("rope_theta");
  if (nested) {
    const JsonReader parameters = reader.get_object("rope_parameters");
    if (parameters.has("rope_theta")) inner = parameters.get_double("rope_theta");
  }
  if (inner && outer && *inner != *outer)
    throw Error(
        "\"rope_theta\" is " + std::to_string(*outer) + ", but " + std::to_string(*inner) + " in \"rope_parameters\"",
        reader.where());
  shape.rope_theta = inner ? *inner : outer.value_or(10000.0);
  std::optional<int64_t> original;
  if (reader.has("original_max_position_embeddings"))
    original = reader.get_int("original_max_position_embeddings", {}, 1, INT32_MAX);
  const char* key = nested ? "rope_parameters" : "rope_scaling";
  if (reader.has(key))
    shape.rope_scaling = parse_rope_scaling(config.at(key), reader.where() + ", \"" + key + "\"", original);
  if (nested && reader.has("rope_scaling")) {
    const auto other = parse_rope_scaling(config.at("rope_scaling"), reader.where() + ", \"rope_scaling\"", original);
    if (other != shape.rope_scaling)
      throw Error("\"rope_scaling\" and \"rope_parameters\" differ", reader.where(), "keep one of them");
  }
}

// "layer_types", where present, says which layers see a window. We have one window for all layers.
std::optional<int64_t> parse_sliding_window(const Json& config, const JsonReader& reader, const HfRules& rules) {
  if (!rules.sliding_window) return {};
  std::optional<int64_t> window = config.contains("sliding_window") ? std::nullopt : rules.default_sliding_window;
  if (reader.has("sliding_window")) window = reader.get_int("sliding_window", {}, 1, INT32_MAX);
  if (!reader.has("layer_types")) return window;
  const Json& types = reader.get("layer_types");
  if (!types.is_array()) throw Error("\"layer_types\" should be a list", reader.where());
  int64_t full = 0, sliding = 0;
  for (const Json& type : types) {
    full += type == "full_attention";
    sliding += type == "sliding_attention";
  }
  if (full == static_cast<int64_t>(types.size())) return {};
  if (sliding != static_cast<int64_t>(types.size()))
    throw Error("\"layer_types\" mixes kinds of layers, which is not supported", reader.where(), kOnlyFix);
  return window;
}

}  // namespace

std::optional<RopeScaling> parse_rope_scaling(const Json& value, const std::string& where,
                                              std::optional<int64_t> original_max_position) {
  if (value.is_null()) return {};
  const JsonReader reader(value, where);
  if (value.empty()) return {};
  const std::string type = reader.get_string(reader.has("rope_type") ? "rope_type" : "type", "default");
  if (type == "default") return {};
  if (type != "llama3")
    throw Error("RoPE scaling \"" + type + "\" is not supported", where, "supported are \"llama3\" and none");
  RopeScaling scaling;
  scaling.factor = reader.get_double("factor");
  scaling.low_freq_factor = reader.get_double("low_freq_factor");
  scaling.high_freq_factor = reader.get_double("high_freq_factor");
  scaling.original_max_position =
      reader.get_int("original_max_position_embeddings", original_max_position, 1, INT32_MAX);
  if (scaling.factor < 1 || scaling.factor > 1e6) throw Error("\"factor\" should be between 1 and 1e6", where);
  // The two bound a ramp whose slope divides by their difference.
  if (scaling.low_freq_factor <= 0 || scaling.high_freq_factor <= scaling.low_freq_factor)
    throw Error("should be 0 < \"low_freq_factor\" < \"high_freq_factor\"", where);
  return scaling;
}

Json make_rope_scaling(const std::optional<RopeScaling>& scaling) {
  if (!scaling) return nullptr;
  return {{"factor", scaling->factor},
          {"high_freq_factor", scaling->high_freq_factor},
          {"low_freq_factor", scaling->low_freq_factor},
          {"original_max_position_embeddings", scaling->original_max_position},
          {"rope_type", "llama3"}};
}

std::string hf_architecture(const Json& config, const std::string& where) {
  const JsonReader reader(config, where);
  const Json& list = reader.get("architectures");
  if (!list.is_array() || list.size() != 1 || !list[0].is_string())
    throw Error("\"architectures\" should be a list of one name", where);
  return list[0].get<std::string>();
}

std::optional<std::string> hf_quant_method(const Json& config) {
  const auto found = config.find("quantization_config");
  if (found == config.end() || found->is_null()) return {};
  const auto method = found->is_object() ? found->find("quant_method") : found->end();
  if (!found->is_object() || method == found->end() || !method->is_string()) return "unnamed";
  return method->get<std::string>();
}

HfConfig parse_hf_config(const Json& config, const std::string& where, const HfRules& rules) {
  const JsonReader reader(config, where);
  HfConfig parsed;
  ModelShape& shape = parsed.shape;
  shape.family = rules.family;
  shape.layers = dimension(reader, "num_hidden_layers", 1024);
  shape.hidden = dimension(reader, "hidden_size", 1 << 17);
  shape.heads = dimension(reader, "num_attention_heads", 4096);
  shape.kv_heads =
      reader.get_int("num_key_value_heads", rules.default_kv_heads ? rules.default_kv_heads : shape.heads, 1, 4096);
  if (!reader.has("head_dim") && shape.hidden % shape.heads != 0)
    throw Error("\"hidden_size\" " + std::to_string(shape.hidden) + " is not a multiple of \"num_attention_heads\" " +
                    std::to_string(shape.heads) + ", and there is no \"head_dim\"",
                where);
  shape.head_dim = reader.get_int("head_dim", shape.hidden / shape.heads, 1, 4096);
  shape.ffn = dimension(reader, "intermediate_size", 1 << 20);
  shape.vocab = dimension(reader, "vocab_size", 1 << 24);
  shape.tied_embeddings = reader.get_bool("tie_word_embeddings", false);
  shape.norm_epsilon = reader.get_double("rms_norm_eps", 1e-6);
  shape.max_position = reader.get_int("max_position_embeddings", rules.default_max_position, 1, INT32_MAX);
  parse_rope(config, reader, shape);
  shape.sliding_window = parse_sliding_window(config, reader, rules);
  check_fixed_keys(reader);
  check_shape_limits(shape, where);
  parsed.dtype = parse_torch_dtype(reader);
  return parsed;
}

void check_shape_limits(const ModelShape& shape, const std::string& where) {
  const auto within = [&](const char* what, int64_t value, int64_t max) {
    if (value < 1 || value > max)
      throw Error(
          std::string(what) + " is " + std::to_string(value) + ", should be between 1 and " + std::to_string(max),
          where);
  };
  within("the number of layers", shape.layers, 1024);
  within("the hidden width", shape.hidden, 1 << 17);
  within("the number of heads", shape.heads, 4096);
  within("the number of KV heads", shape.kv_heads, 4096);
  within("head_dim", shape.head_dim, 4096);
  within("the MLP width", shape.ffn, 1 << 20);
  within("the vocabulary", shape.vocab, 1 << 24);
  within("the context length", shape.max_position, INT32_MAX);
  within("heads × head_dim", shape.q_rows(), 1 << 18);
  if (shape.heads % shape.kv_heads != 0)
    throw Error(
        std::to_string(shape.heads) + " heads are not a multiple of " + std::to_string(shape.kv_heads) + " KV heads",
        where);
  if (shape.head_dim % 2 != 0)
    throw Error("head_dim " + std::to_string(shape.head_dim) + " is odd; RoPE turns pairs", where);
  if (!(shape.rope_theta > 0 && shape.rope_theta <= 1e15))
    throw Error("the RoPE base is " + std::to_string(shape.rope_theta) + ", should be above 0 and at most 1e15", where);
  if (!(shape.norm_epsilon >= 0 && shape.norm_epsilon < 1))
    throw Error("the norm epsilon is " + std::to_string(shape.norm_epsilon) + ", should be between 0 and 1", where);
}

Json make_hf_config(const ModelShape& shape, DType dtype, const HfRules& rules) {
  const char* type = dtype == DType::f16 ? "float16" : dtype == DType::bf16 ? "bfloat16" : "float32";
  Json config{{"architectures", {rules.architecture}},
              {"model_type", rules.model_type},
              {"attention_bias", false},
              {"head_dim", shape.head_dim},
              {"hidden_act", "silu"},
              {"hidden_size", shape.hidden},
              {"intermediate_size", shape.ffn},
              {"max_position_embeddings", shape.max_position},
              {"mlp_bias", false},
              {"num_attention_heads", shape.heads},
              {"num_hidden_layers", shape.layers},
              {"num_key_value_heads", shape.kv_heads},
              {"rms_norm_eps", shape.norm_epsilon},
              {"rope_scaling", make_rope_scaling(shape.rope_scaling)},
              {"rope_theta", shape.rope_theta},
              {"tie_word_embeddings", shape.tied_embeddings},
              {"torch_dtype", type},
              {"use_cache", true},
              {"vocab_size", shape.vocab}};
  if (rules.sliding_window)
    config["sliding_window"] = shape.sliding_window ? Json(*shape.sliding_window) : Json(nullptr);
  return config;
}

}  // namespace qg
