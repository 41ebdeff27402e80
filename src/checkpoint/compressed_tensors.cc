// The compressed-tensors layout, of vLLM, SGLang and transformers: "quantization_config" of config.json says how all
// "Linear" modules are quantized.
#include "checkpoint/compressed_tensors.h"

#include "checkpoint/folder_checkpoint.h"
#include "checkpoint/hf_quantized.h"
#include "checkpoint/int4_packing.h"
#include "checkpoint/linear_parts.h"
#include "core/error.h"

namespace qg {
namespace {

const std::vector<DType> kScaleTypes{DType::f32, DType::f16, DType::bf16};

class CompressedTensorsLayout final : public HfQuantLayout {
 public:
  Layout layout() const override { return Layout::compressed_tensors; }

  QuantSpec parse(const Json& config, const std::filesystem::path& folder) const override {
    return parse_compressed_tensors_quant(config.at("quantization_config"),
                                          (folder / "config.json").string() + ", \"quantization_config\"");
  }

  void check(const QuantSpec& quant, DType) const override {
    const bool quantized_input = quant.activations != ActivationScaling::none;
    const auto refuse = [](const std::string& what, const std::string& fix) {
      throw Error("the compressed-tensors layout cannot hold " + what, "", fix);
    };
    if (quant.weights == WeightFormat::fp16) refuse("fp16 weights: it is for quantized models", "use another layout");
    if (quant.prequant_scales)
      refuse("scales of a layer's input (prequant scales)", "they must be folded into what makes the input");
    if (quant.weights != WeightFormat::int4_awq && !quantized_input)
      refuse("8-bit weights with 16-bit activations", "use static or dynamic activations");
    if (quant.weights == WeightFormat::int8_sq && quant.weight_scaling != WeightScaling::channel)
      refuse("int8 weights without a scale per output channel", "quantize again");
    if (quant.weights == WeightFormat::int4_awq && (quant.group_size < 8 || quant.group_size % 8 != 0))
      refuse("int4 without groups of a multiple of 8", "give --group-size 32, 64 or 128");
  }

  std::vector<std::pair<std::string, Json>> describe(const QuantSpec& quant, Json& config) const override {
    config["quantization_config"] = make_compressed_tensors_quant(quant);
    return {};
  }

  std::vector<PartTensor> tensors(const PartSpec& part, const QuantSpec& quant, DType dtype) const override {
    const int64_t n = part.rows, k = part.spec.k;
    if (quant.weights == WeightFormat::int4_awq) return int4_tensors(part, quant, dtype);
    const DType stored = quant.weights == WeightFormat::fp8 ? DType::f8_e4m3 : DType::i8;
    std::vector<PartTensor> list{{".weight", {stored}, {{n, k}}}};
    if (quant.weight_scaling == WeightScaling::tensor)
      list.push_back({".weight_scale", kScaleTypes, {{1}, {}, {1, 1}}});
    else
      list.push_back({".weight_scale", kScaleTypes, {{n, 1}, {n}}});
    if (quant.activations == ActivationScaling::static_tensor) list.push_back({".input_scale", kScaleTypes, {{1}, {}}});
    return list;
  }

  NamedTensors encode(const PartSpec& part, const LinearWeights& w, const QuantSpec& quant,
                      DType dtype) const override {
    refuse_part_tensor(w.prequant_scale, part, "a scale of the input",
                       "it must be folded into what makes the input (" + part.name + ")");
    const int64_t n = part.rows, k = part.spec.k;
    NamedTensors made;
    if (quant.weights == WeightFormat::int4_awq) {
      check_part_scales(w.weight_scale, part, "weight_scale");
      const NewTensor shape = new_tensor(DType::i64, {2});
      shape.as<int64_t>()[0] = n;
      shape.as<int64_t>()[1] = k;
      made.emplace_back(".weight_packed", pack_compressed_int4(w.weight));
      made.emplace_back(".weight_shape", shape.tensor);
      made.emplace_back(".weight_scale", convert_dtype(w.weight_scale, dtype, part.name + ".weight_scale"));
      check_part_scales(made.back().second, part, "weight_scale");  // none may have become 0
      if (quant.zero_points)
        made.emplace_back(".weight_zero_point", pack_compressed_zeros(w.zero_point));
      else
        refuse_part_tensor(w.zero_point, part, "zero points", "the recipe says that it is symmetric");
      return made;
    }
    made.emplace_back(".weight", w.weight);
    check_part_scales(w.weight_scale, part, "weight_scale");
    if (quant.weight_scaling == WeightScaling::channel)
      made.emplace_back(".weight_scale", in_shape(scale_per_row(w.weight_scale, n), {n, 1}));
    else if (w.weight_scale.elements() == 1)
      made.emplace_back(".weight_scale", in_shape(w.weight_scale, {1}));
    else
      throw Error("the layer has a weight scale a row, the checkpoint one a matrix", part.name);
    if (quant.activations == ActivationScaling::static_tensor) {
      if (w.input_scale.empty()) throw Error("static activations need an input scale", part.name);
      check_part_scales(w.input_scale, part, "input_scale");
      made.emplace_back(".input_scale", in_shape(w.input_scale, {1}));
    } else {
      refuse_part_tensor(w.input_scale, part, "a static input scale", "activations are dynamic");
    }
    return made;
  }

  LinearWeights decode(const PartSpec& part, const QuantSpec& quant, const GetTensor& get) const override {
    const int64_t n = part.rows, k = part.spec.k;
    LinearWeights w;
    if (quant.weights == WeightFormat::int4_awq) {
      check_stored_shape(part, get(".weight_shape"));
      w.weight = unpack_compressed_int4(get(".weight_packed"));
      w.weight_scale = read_part_scale(part, get, ".weight_scale", {n, k / quant.group_size});
      if (quant.zero_points) w.zero_point = unpack_compressed_zeros(get(".weight_zero_point"), n);
      return w;
    }
    w.weight = get(".weight");
    const bool per_tensor = quant.weight_scaling == WeightScaling::tensor;
    w.weight_scale = read_part_scale(part, get, ".weight_scale", {per_tensor ? 1 : n});
    if (quant.activations == ActivationScaling::static_tensor)
      w.input_scale = read_part_scale(part, get, ".input_scale", {1});
    return w;
  }

  KvNames kv_names(const std::string& attention) const override {
    return {attention + ".k_scale", attention + ".v_scale", {1}};
  }

 private:
  static std::vector<PartTensor> int4_tensors(const PartSpec& part, const QuantSpec& quant, DType dtype) {
    const int64_t n = part.rows, k = part.spec.k;
    if (k % quant.group_size != 0 || k % 8 != 0)
      throw Error("int4 in groups of " + std::to_string(quant.group_size) + " does not fit a layer of " +
                      to_string(Shape{n, k}),
                  part.name, "use a smaller group size, such as 64 or 32");
    const int64_t groups = k / quant.group_size;
    std::vector<PartTensor> list{
        {".weight_packed", {DType::i32}, {{n, k / 8}}},
        {".weight_shape", {DType::i64, DType::i32}, {{2}}},
        {".weight_scale", {dtype, DType::f32, DType::f16, DType::bf16}, {{n, groups}}},
    };
    if (quant.zero_points) list.push_back({".weight_zero_point", {DType::i32}, {{(n + 7) / 8, groups}}});
    return list;
  }

  static void check_stored_shape(const PartSpec& part, const Tensor& shape) {
    const auto at = [&](int i) {
      return shape.dtype == DType::i64 ? shape.as<int64_t>()[i] : int64_t{shape.as<int32_t>()[i]};
    };
    if (at(0) != part.rows || at(1) != part.spec.k)
      throw Error("weight_shape says " + to_string(Shape{at(0), at(1)}) + ", config.json asks for " +
                      to_string(Shape{part.rows, part.spec.k}),
                  part.name, "config.json and weights must belong together: fetch or make the folder again");
  }
};

}  // namespace

const HfQuantLayout& compressed_tensors_layout() {
  static const CompressedTensorsLayout kLayout;
  return kLayout;
}

}  // namespace qg
