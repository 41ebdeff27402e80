// AutoAWQ's layout, version "gemm": 4-bit groups with zero points, matrices transposed, scales folded into what makes
// a layer's input.
#include "checkpoint/folder_checkpoint.h"
#include "checkpoint/hf_quantized.h"
#include "checkpoint/int4_packing.h"
#include "core/error.h"

namespace qg {
namespace {

class AutoawqLayout final : public HfQuantLayout {
 public:
  Layout layout() const override { return Layout::autoawq; }

  QuantSpec parse(const Json& config, const std::filesystem::path& folder) const override {
    const JsonReader reader(config.at("quantization_config"),
                            (folder / "config.json").string() + ", \"quantization_config\"");
    const auto either = [&](const char* name, const char* old) { return reader.has(name) ? name : old; };
    const int64_t bits = reader.get_int(either("bits", "w_bit"));
    if (bits != 4) throw Error("AWQ with " + std::to_string(bits) + " bits is not read", reader.where(), "read are 4");
    std::string version = reader.get_string("version", "gemm");
    for (char& c : version) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    if (version != "gemm")
      throw Error("AWQ version \"" + version.substr(0, 50) + "\" is not read", reader.where(), "read is \"gemm\"");
    if (!reader.get_bool("zero_point", true))
      throw Error("AWQ without zero points is not read", reader.where(), "\"zero_point\" should be true");
    if (reader.has("modules_to_not_convert"))
      check_ignored_modules(reader.get("modules_to_not_convert"), reader.where() + ", \"modules_to_not_convert\"");
    QuantSpec quant = awq_quant();
    quant.group_size = reader.get_int(either("group_size", "q_group_size"), {}, 2, 1 << 20);
    return quant;
  }

  void check(const QuantSpec& quant, DType dtype) const override {
    const auto refuse = [](const std::string& what, const std::string& fix) {
      throw Error("the AutoAWQ layout cannot hold " + what, "", fix);
    };
    if (quant.weights != WeightFormat::int4_awq)
      refuse(std::string(to_string(quant.weights)) + " weights", "it is for int4_awq");
    if (quant.activations != ActivationScaling::none) refuse("quantized activations", "use another layout");
    if (quant.prequant_scales)
      refuse("scales of a layer's input (prequant scales)", "they must be folded into what makes the input");
    if (dtype != DType::f16) refuse("tensors of type " + std::string(to_string(dtype)), "it is F16 throughout");
  }

  std::vector<std::pair<std::string, Json>> describe(const QuantSpec& quant, Json& config) const override {
    config["quantization_config"] = {{"quant_method", "awq"}, {"bits", 4},         {"group_size", quant.group_size},
                                     {"zero_point", true},    {"version", "gemm"}, {"modules_to_not_convert", nullptr}};
    return {};
  }

  std::vector<PartTensor> tensors(const PartSpec& part, const QuantSpec& quant, DType) const override {
    const int64_t n = part.rows, k = part.spec.k;
    if (k % quant.group_size != 0 || n % 8 != 0)
      throw Error("AWQ in groups of " + std::to_string(quant.group_size) +
                      " and columns of 8 does not fit a layer of " + to_string(Shape{n, k}),
                  part.name, "use a smaller group size, such as 64 or 32");
    const int64_t groups = k / quant.group_size;
    return {{".qweight", {DType::i32}, {{k, n / 8}}},
            {".qzeros", {DType::i32}, {{groups, n / 8}}},
            {".scales", {DType::f16, DType::bf16, DType::f32}, {{groups, n}}}};
  }

  NamedTensors encode(const PartSpec& part, const LinearWeights& w, const QuantSpec& quant, DType) const override {
    refuse_part_tensor(w.prequant_scale, part, "a scale of the input",
                       "it must be folded into what makes the input (" + part.name + ")");
    check_part_scales(w.weight_scale, part, "scales");
    const Tensor scales = convert_dtype(transposed_f32(w.weight_scale), DType::f16, part.name + ".scales");
    check_part_scales(scales, part, "scales");  // none may have become 0
    return {{".qweight", pack_awq_int4(w.weight)},
            {".qzeros", pack_awq_zeros(w.zero_point.empty() ? all_eight(part.rows, part.spec.k / quant.group_size)
                                                            : w.zero_point)},
            {".scales", scales}};
  }

  LinearWeights decode(const PartSpec& part, const QuantSpec& quant, const GetTensor& get) const override {
    LinearWeights w;
    w.weight = unpack_awq_int4(get(".qweight"));
    w.zero_point = unpack_awq_zeros(get(".qzeros"));
    w.weight_scale = transposed_f32(read_part_scale(part, get, ".scales", {part.spec.k / quant.group_size, part.rows}));
    return w;
  }

  KvNames kv_names(const std::string&) const override { return {}; }

 private:
  static QuantSpec awq_quant() {
    QuantSpec quant;
    quant.weights = WeightFormat::int4_awq;
    quant.weight_scaling = WeightScaling::group;
    quant.zero_points = true;
    quant.exclude = {"lm_head"};
    return quant;
  }

  // Symmetric codes are those with zero points of 8.
  static Tensor all_eight(int64_t n, int64_t groups) {
    const NewTensor made = new_tensor(DType::u8, {n, groups});
    std::fill_n(made.as<uint8_t>(), n * groups, uint8_t{8});
    return made.tensor;
  }
};

}  // namespace

const HfQuantLayout& autoawq_layout() {
  static const AutoawqLayout kLayout;
  return kLayout;
}

}  // namespace qg
