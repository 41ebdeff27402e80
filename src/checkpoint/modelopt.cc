// NVIDIA Model Optimizer's "unified Hugging Face" layout, for TensorRT-LLM's PyTorch back end, vLLM and SGLang:
// hf_quant_config.json, and the same in config.json since its version 0.31.
#include "checkpoint/folder_checkpoint.h"
#include "checkpoint/hf_quantized.h"
#include "checkpoint/linear_parts.h"
#include "checkpoint/strict_json.h"
#include "checkpoint/trtllm_linear.h"
#include "core/error.h"
#include "core/version.h"

namespace qg {
namespace {

constexpr const char* kQuantFile = "hf_quant_config.json";

// The algorithms of this layout are spelled as TensorRT-LLM spells them.
TrtllmAlgo parse_algo(const JsonReader& reader) {
  const std::string name = reader.get_string("quant_algo", "");
  const bool read = name == "FP8" || name == "W4A16_AWQ" || name == "W8A8_SQ_PER_CHANNEL";
  if (!read)
    throw Error("\"quant_algo\" is \"" + name.substr(0, 100) + "\", which is not read in the modelopt layout",
                reader.where(), "read are FP8, W4A16_AWQ and W8A8_SQ_PER_CHANNEL");
  return parse_trtllm_algo(name, reader.where());
}

std::optional<KvFormat> parse_kv(const JsonReader& reader) {
  const std::string name = reader.get_string("kv_cache_quant_algo", "");
  if (name.empty()) return {};
  if (name == "FP8") return KvFormat::fp8;
  throw Error("\"kv_cache_quant_algo\" is \"" + name.substr(0, 100) + "\", supported are FP8 and null", reader.where());
}

QuantSpec parse_quant(const Json& json, const std::string& where, const char* exclude_key) {
  const JsonReader reader(json, where);
  const TrtllmAlgo algo = parse_algo(reader);
  QuantSpec quant = quant_of_trtllm_algo(algo);
  if (algo == TrtllmAlgo::int4_awq) {
    quant.group_size = reader.get_int("group_size", 128, 2, 1 << 20);
    if (reader.get_bool("has_zero_point", false))
      throw Error("\"has_zero_point\" is true, which is not supported for W4A16_AWQ", where);
  }
  quant.fixed_kv = parse_kv(reader);
  if (reader.has(exclude_key)) check_ignored_modules(reader.get(exclude_key), where + ", \"" + exclude_key + "\"");
  quant.exclude = {"lm_head"};
  return quant;
}

// Inputs that come straight from a norm are scaled there by modelopt's own exporter; newer ones may keep the scale.
bool must_have_prequant(const PartSpec& part, const QuantSpec& quant) {
  return quant.weights == WeightFormat::int8_sq || !part.spec.producer_norm;
}

class ModeloptLayout final : public HfQuantLayout {
 public:
  Layout layout() const override { return Layout::modelopt; }

  QuantSpec parse(const Json& config, const std::filesystem::path& folder) const override {
    if (std::filesystem::exists(folder / kQuantFile)) {
      const std::string where = (folder / kQuantFile).string();
      const Json file = read_strict_json(folder / kQuantFile);
      const JsonReader reader(file, where);
      return parse_quant(reader.get("quantization"), where + ", \"quantization\"", "exclude_modules");
    }
    const std::string where = (folder / "config.json").string() + ", \"quantization_config\"";
    return parse_quant(config.at("quantization_config"), where, "ignore");
  }

  void check(const QuantSpec& quant, DType dtype) const override {
    if (dtype == DType::f32) throw Error("the modelopt layout holds F16 or BF16 tensors beside the quantized ones");
    const TrtllmAlgo algo = trtllm_algo(quant);
    if (algo == TrtllmAlgo::fp8 || algo == TrtllmAlgo::int4_awq || algo == TrtllmAlgo::int8_static) return;
    if (algo == TrtllmAlgo::none)
      throw Error("the modelopt layout cannot hold fp16 weights: it is for quantized models", "", "use another layout");
    throw Error("the modelopt layout cannot hold " + std::string(to_string(algo)), "",
                algo == TrtllmAlgo::int8_per_token ? "make int8_sq with --activations static, or use another layout"
                                                   : "use another layout");
  }

  std::vector<std::pair<std::string, Json>> describe(const QuantSpec& quant, Json& config) const override {
    const TrtllmAlgo algo = trtllm_algo(quant);
    const Json producer{{"name", "modelopt"}, {"version", std::string("quantgrid ") + version()}};
    const Json kv = quant.fixed_kv == KvFormat::fp8 ? Json("FP8") : Json(nullptr);
    const Json exclude = Json::array({"lm_head"});
    Json inner{{"quant_algo", std::string(to_string(algo))}, {"kv_cache_quant_algo", kv}};
    if (algo == TrtllmAlgo::int4_awq) {
      inner["group_size"] = quant.group_size;
      inner["has_zero_point"] = false;
      inner["pre_quant_scale"] = true;
    }
    inner["exclude_modules"] = exclude;

    Json outer{{"quant_method", "modelopt"}, {"quant_algo", std::string(to_string(algo))}, {"ignore", exclude}};
    if (algo == TrtllmAlgo::int4_awq) outer["group_size"] = quant.group_size;
    const Json eight{{"dynamic", false}, {"num_bits", 8}, {"type", "float"}};
    if (quant.fixed_kv == KvFormat::fp8) {
      outer["kv_cache_quant_algo"] = "FP8";
      outer["kv_cache_scheme"] = eight;
    }
    if (algo == TrtllmAlgo::fp8)
      outer["config_groups"]["group_0"] = {{"input_activations", eight}, {"weights", eight}, {"targets", {"Linear"}}};
    outer["producer"] = producer;
    config["quantization_config"] = std::move(outer);
    return {{kQuantFile, Json{{"producer", producer}, {"quantization", std::move(inner)}}}};
  }

  std::vector<PartTensor> tensors(const PartSpec& part, const QuantSpec& quant, DType dtype) const override {
    const int64_t n = part.rows, k = part.spec.k;
    // Scalars are scalars here, not vectors of one.
    const PartTensor input_scale{".input_scale", {DType::f32, DType::f16, DType::bf16}, {{}, {1}}};
    PartTensor prequant{".pre_quant_scale", {dtype, DType::f16, DType::bf16, DType::f32}, {{k}}};
    prequant.optional = !must_have_prequant(part, quant);
    if (quant.weights == WeightFormat::fp8)
      return {{".weight", {DType::f8_e4m3}, {{n, k}}}, {".weight_scale", kPlainTypesF32First, {{}, {1}}}, input_scale};
    if (quant.weights == WeightFormat::int8_sq)
      return {{".weight", {DType::i8}, {{n, k}}},
              {".weight_scale", kPlainTypesF32First, {{n}, {n, 1}}},
              input_scale,
              prequant};
    if (k % quant.group_size != 0 || n % 2 != 0)
      throw Error("int4 in groups of " + std::to_string(quant.group_size) + " does not fit a layer of " +
                      to_string(Shape{n, k}),
                  part.name, "use a smaller group size, such as 64 or 32");
    return {{".weight", {DType::u8, DType::i8}, {{n / 2, k}}},
            {".weight_scale", kPlainTypesF32First, {{n, k / quant.group_size}}},
            prequant};
  }

  NamedTensors encode(const PartSpec& part, const LinearWeights& w, const QuantSpec& quant,
                      DType dtype) const override {
    refuse_part_tensor(w.zero_point, part, "zero points", "its int4 is symmetric");
    NamedTensors made;
    const auto scale = [&](const char* suffix, const Tensor& tensor, Shape shape) {
      check_part_scales(tensor, part, suffix + 1);
      made.emplace_back(suffix, in_shape(tensor, std::move(shape)));
    };
    const auto prequant = [&] {
      const std::vector<float> ones(static_cast<size_t>(part.spec.k), 1.0f);
      const Tensor factor = w.prequant_scale.empty() ? tensor_from_f32(ones, {part.spec.k}) : w.prequant_scale;
      scale(".pre_quant_scale", convert_dtype(factor, dtype, part.name + ".pre_quant_scale"), {part.spec.k});
    };
    if (quant.weights == WeightFormat::int4_awq) {
      if (must_have_prequant(part, quant))
        prequant();
      else
        refuse_part_tensor(w.prequant_scale, part, "a scale of the input", "it must be folded into the norm before it");
      Tensor packed = pack_trtllm_int4(w.weight);
      packed.dtype = DType::u8;
      made.emplace_back(".weight", std::move(packed));
      scale(".weight_scale", w.weight_scale, {part.rows, part.spec.k / quant.group_size});
      return made;
    }
    made.emplace_back(".weight", w.weight);
    if (quant.weights == WeightFormat::fp8) {
      refuse_part_tensor(w.prequant_scale, part, "a scale of the input", "FP8 layers have none");
      if (w.weight_scale.elements() != 1)
        throw Error("this layout has one FP8 weight scale a matrix, and the layer has one a row", part.name,
                    "quantize again with --weight-scales tensor");
      scale(".weight_scale", w.weight_scale, {});
    } else {
      prequant();
      scale(".weight_scale", scale_per_row(w.weight_scale, part.rows), {part.rows});
    }
    if (w.input_scale.empty()) throw Error("this layout needs a static input scale", part.name);
    scale(".input_scale", w.input_scale, {});
    return made;
  }

  LinearWeights decode(const PartSpec& part, const QuantSpec& quant, const GetTensor& get) const override {
    const int64_t n = part.rows, k = part.spec.k;
    LinearWeights w;
    w.weight = get(".weight");
    if (quant.weights == WeightFormat::int4_awq) {
      w.weight = unpack_trtllm_int4(w.weight);
      w.weight_scale = read_part_scale(part, get, ".weight_scale", {n, k / quant.group_size});
    } else {
      const bool fp8 = quant.weights == WeightFormat::fp8;
      w.weight_scale = read_part_scale(part, get, ".weight_scale", {fp8 ? 1 : n});
      w.input_scale = read_part_scale(part, get, ".input_scale", {1});
    }
    if (quant.prequant_scales && !get(".pre_quant_scale").empty())
      w.prequant_scale = read_part_scale(part, get, ".pre_quant_scale", {k});
    return w;
  }

  KvNames kv_names(const std::string& attention) const override {
    return {attention + ".k_proj.k_scale", attention + ".v_proj.v_scale", {}};
  }

 private:
  inline static const std::vector<DType> kPlainTypesF32First{DType::f32, DType::f16, DType::bf16};
};

}  // namespace

const HfQuantLayout& modelopt_layout() {
  static const ModeloptLayout kLayout;
  return kLayout;
}

}  // namespace qg
