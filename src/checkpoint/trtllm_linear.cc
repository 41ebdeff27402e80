#include "checkpoint/trtllm_linear.h"

#include <array>
#include <cmath>

#include "checkpoint/folder_checkpoint.h"
#include "core/error.h"

namespace qg {
namespace {

constexpr std::array<std::pair<TrtllmAlgo, std::string_view>, 6> kAlgoNames{
    {{TrtllmAlgo::none, "none"},
     {TrtllmAlgo::fp8, "FP8"},
     {TrtllmAlgo::fp8_per_token, "FP8_PER_CHANNEL_PER_TOKEN"},
     {TrtllmAlgo::int4_awq, "W4A16_AWQ"},
     {TrtllmAlgo::int8_static, "W8A8_SQ_PER_CHANNEL"},
     {TrtllmAlgo::int8_per_token, "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN"}}};

// In the plugin layout only these two scale their input; for the others the scale is folded into the norm before them.
bool has_smoother(const LinearSpec& spec) {
  return !spec.producer_norm;
}

[[noreturn]] void cannot_hold(const std::string& what, const std::string& fix = {}) {
  throw Error("the TensorRT-LLM layout cannot hold " + what, "", fix);
}

Tensor require(const Tensor& tensor, const char* what, const Shape& shape, const LinearSpec& spec) {
  if (tensor.empty()) throw Error(std::string(what) + " is missing", spec.trtllm_name);
  if (tensor.shape != shape)
    throw Error(std::string(what) + " has shape " + to_string(tensor.shape) + ", should have " + to_string(shape),
                spec.trtllm_name);
  return tensor;
}

void require_empty(const Tensor& tensor, const char* what, const LinearSpec& spec, const char* why) {
  if (!tensor.empty())
    throw Error(std::string("the TensorRT-LLM layout cannot hold ") + what + " here: " + why, spec.trtllm_name);
}

Tensor require_dtype(const Tensor& tensor, DType dtype, const LinearSpec& spec) {
  if (tensor.dtype != dtype)
    throw Error("weight is " + std::string(to_string(tensor.dtype)) + ", should be " + std::string(to_string(dtype)),
                spec.trtllm_name);
  return tensor;
}

// Scales of either direction: finite, and above 0 (reading: a group of zeros may have scale 0).
void check_scales(const Tensor& scales, const std::string& where, bool zero_allowed) {
  for (float scale : to_f32(scales))
    if (!std::isfinite(scale) || scale < 0 || (scale == 0 && !zero_allowed))
      throw Error("holds the scale " + std::to_string(scale) + ", should be finite and above 0", where);
}

Tensor ones(int64_t count) {
  return tensor_from_f32(std::vector<float>(static_cast<size_t>(count), 1.0f), {count});
}

Tensor reshaped(Tensor tensor, Shape shape) {
  if (num_elements(shape) != tensor.elements())
    throw Error("shape " + to_string(tensor.shape) + " does not hold " + to_string(shape));
  tensor.shape = std::move(shape);
  return tensor;
}

Tensor reciprocals(const Tensor& scales, Shape shape) {
  std::vector<float> values = to_f32(scales);
  for (float& value : values) value = 1.0f / value;
  return tensor_from_f32(values, std::move(shape));
}

// A per-tensor scale as one per row: the same numbers, so nothing is lost.
Tensor per_row(const Tensor& scale, int64_t n) {
  if (scale.empty() || scale.elements() != 1) return scale;
  return tensor_from_f32(std::vector<float>(static_cast<size_t>(n), to_f32(scale)[0]), {n});
}

class Encoder {
 public:
  Encoder(const LinearSpec& spec, const LinearWeights& weights, DType dtype)
      : spec_(spec), weights_(weights), dtype_(dtype) {}

  std::vector<std::pair<std::string, Tensor>> run(TrtllmAlgo algo, const QuantSpec& quant) {
    if (weights_.format != quant.weights)
      throw Error("weights are " + std::string(to_string(weights_.format)) + ", the checkpoint's are " +
                      std::string(to_string(quant.weights)),
                  spec_.trtllm_name);
    require_empty(weights_.zero_point, "zero points", spec_, "its int4 is symmetric");
    switch (algo) {
      case TrtllmAlgo::none:
        plain();
        break;
      case TrtllmAlgo::fp8:
        fp8();
        break;
      case TrtllmAlgo::fp8_per_token:
        fp8_per_token();
        break;
      case TrtllmAlgo::int4_awq:
        int4_awq(quant);
        break;
      case TrtllmAlgo::int8_static:
        int8_static();
        break;
      case TrtllmAlgo::int8_per_token:
        int8_per_token();
        break;
    }
    return std::move(tensors_);
  }

 private:
  void add(const char* suffix, Tensor tensor) { tensors_.emplace_back(spec_.trtllm_name + suffix, std::move(tensor)); }
  void add_scale(const char* suffix, const Tensor& tensor) {
    check_scales(tensor, spec_.trtllm_name + suffix, false);
    add(suffix, tensor);
  }
  Tensor matrix() const { return require(weights_.weight, "weight", {spec_.n, spec_.k}, spec_); }
  Tensor row_scales() const {
    return require(per_row(weights_.weight_scale, spec_.n), "weight scale", {spec_.n}, spec_);
  }
  void no_prequant(const char* why) const {
    require_empty(weights_.prequant_scale, "a scale of the input", spec_, why);
  }
  void no_static() const { require_empty(weights_.input_scale, "a static input scale", spec_, "it is dynamic"); }

  // The factor on the input, in the checkpoint's dtype; ones where the layer has none.
  void add_prequant() {
    const Tensor factor = weights_.prequant_scale.empty() ? ones(spec_.k) : weights_.prequant_scale;
    require(factor, "prequant scale", {spec_.k}, spec_);
    const std::string name = spec_.trtllm_name + ".prequant_scaling_factor";
    add_scale(".prequant_scaling_factor", convert_dtype(factor, dtype_, name));
  }

  void plain() {
    no_prequant("fp16 layers have none");
    require_empty(weights_.weight_scale, "a weight scale", spec_, "fp16 layers have none");
    no_static();
    add(".weight", convert_dtype(matrix(), dtype_, spec_.trtllm_name));
  }

  void fp8() {
    no_prequant("FP8 layers have none");
    add(".weight", require_dtype(matrix(), DType::f8_e4m3, spec_));
    add_scale(".weights_scaling_factor", require(weights_.weight_scale, "weight scale", {1}, spec_));
    add_scale(".activation_scaling_factor", require(weights_.input_scale, "static input scale", {1}, spec_));
  }

  void fp8_per_token() {
    no_prequant("FP8 layers have none");
    no_static();
    add(".weight", require_dtype(matrix(), DType::f8_e4m3, spec_));
    add_scale(".per_channel_scale", row_scales());
  }

  void int4_awq(const QuantSpec& quant) {
    no_static();
    if (weights_.group_size != quant.group_size)
      throw Error("group size is " + std::to_string(weights_.group_size) + ", the checkpoint's is " +
                      std::to_string(quant.group_size),
                  spec_.trtllm_name);
    require(weights_.weight, "weight", {spec_.n, spec_.k / 2}, spec_);
    add(".weight", pack_trtllm_int4(require_dtype(weights_.weight, DType::u8, spec_)));
    add_scale(".weights_scaling_factor",
              require(weights_.weight_scale, "weight scale", {spec_.n, spec_.k / quant.group_size}, spec_));
    if (quant.prequant_scales)
      add_prequant();
    else
      no_prequant("the recipe says that no layer has one");
  }

  void int8_static() {
    add(".weight", require_dtype(matrix(), DType::i8, spec_));
    add_scale(".weights_scaling_factor", row_scales());
    add_scale(".activation_scaling_factor", require(weights_.input_scale, "static input scale", {1}, spec_));
    add_prequant();
  }

  void int8_per_token() {
    no_static();
    add(".weight", require_dtype(matrix(), DType::i8, spec_));
    add_scale(".per_channel_scale", reshaped(row_scales(), {1, spec_.n}));
    if (!has_smoother(spec_)) {
      no_prequant("it must be folded into the norm before the layer");
      return;
    }
    const Tensor factor = weights_.prequant_scale.empty() ? ones(spec_.k) : weights_.prequant_scale;
    // The layout's smoother divides the input, ours multiplies it.
    add_scale(".smoother", reciprocals(require(factor, "prequant scale", {spec_.k}, spec_), {1, spec_.k}));
  }

  const LinearSpec& spec_;
  const LinearWeights& weights_;
  DType dtype_;
  std::vector<std::pair<std::string, Tensor>> tensors_;
};

}  // namespace

std::string_view to_string(TrtllmAlgo algo) {
  for (const auto& [value, name] : kAlgoNames)
    if (value == algo) return name;
  return "none";
}

TrtllmAlgo parse_trtllm_algo(const std::string& name, const std::string& where) {
  if (name.empty() || name == "NO_QUANT") return TrtllmAlgo::none;
  for (const auto& [value, text] : kAlgoNames)
    if (value != TrtllmAlgo::none && text == name) return value;
  throw Error("\"quant_algo\" is \"" + name.substr(0, 100) + "\", which is not read", where,
              "read are FP8, FP8_PER_CHANNEL_PER_TOKEN, W4A16_AWQ, W8A8_SQ_PER_CHANNEL, "
              "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN and null");
}

QuantSpec quant_of_trtllm_algo(TrtllmAlgo algo) {
  using W = WeightScaling;
  using A = ActivationScaling;
  const auto spec = [](WeightFormat format, W weight_scaling, A activations, bool prequant) {
    QuantSpec quant;
    quant.weights = format;
    quant.weight_scaling = weight_scaling;
    quant.activations = activations;
    quant.prequant_scales = prequant;
    return quant;
  };
  switch (algo) {
    case TrtllmAlgo::fp8:
      return spec(WeightFormat::fp8, W::tensor, A::static_tensor, false);
    case TrtllmAlgo::fp8_per_token:
      return spec(WeightFormat::fp8, W::channel, A::dynamic_token, false);
    case TrtllmAlgo::int4_awq:
      return spec(WeightFormat::int4_awq, W::group, A::none, true);
    case TrtllmAlgo::int8_static:
      return spec(WeightFormat::int8_sq, W::channel, A::static_tensor, true);
    case TrtllmAlgo::int8_per_token:
      return spec(WeightFormat::int8_sq, W::channel, A::dynamic_token, true);
    case TrtllmAlgo::none:
      break;
  }
  return {};
}

TrtllmAlgo trtllm_algo(const QuantSpec& quant) {
  const bool is_static = quant.activations == ActivationScaling::static_tensor;
  const bool is_dynamic = quant.activations == ActivationScaling::dynamic_token;
  if (quant.zero_points) cannot_hold("int4 with zero points", "quantize symmetrically, or use another layout");
  if (quant.weights == WeightFormat::fp16) {
    if (is_static || is_dynamic) cannot_hold("fp16 weights with quantized activations");
    return TrtllmAlgo::none;
  }
  if (quant.weights == WeightFormat::int4_awq) {
    if (is_static || is_dynamic) cannot_hold("int4 weights with quantized activations as W4A16_AWQ");
    if (quant.group_size < 1) cannot_hold("int4 weights without groups", "give a group size");
    return TrtllmAlgo::int4_awq;
  }
  if (!is_static && !is_dynamic) cannot_hold("8-bit weights with 16-bit activations");
  if (quant.weights == WeightFormat::int8_sq) {
    if (quant.weight_scaling != WeightScaling::channel) cannot_hold("int8 weights without a scale per output channel");
    return is_static ? TrtllmAlgo::int8_static : TrtllmAlgo::int8_per_token;
  }
  if (quant.prequant_scales) cannot_hold("FP8 weights with prequant scales");
  if (is_dynamic) return TrtllmAlgo::fp8_per_token;  // holds a scale per matrix too: the same number for every row
  if (quant.weight_scaling != WeightScaling::tensor)
    cannot_hold("FP8 weights with a scale per channel and static activations", "use one scale per matrix");
  return TrtllmAlgo::fp8;
}

std::vector<TensorEntry> trtllm_linear_entries(const LinearSpec& spec, const QuantSpec& quant, DType dtype) {
  const int64_t n = spec.n, k = spec.k;
  std::vector<TensorEntry> entries;
  const auto add = [&](const char* suffix, DType type, Shape shape) {
    entries.push_back({spec.trtllm_name + suffix, type, std::move(shape)});
  };
  switch (trtllm_algo(quant)) {
    case TrtllmAlgo::none:
      add(".weight", dtype, {n, k});
      break;
    case TrtllmAlgo::fp8:
      add(".weight", DType::f8_e4m3, {n, k});
      add(".weights_scaling_factor", DType::f32, {1});
      add(".activation_scaling_factor", DType::f32, {1});
      break;
    case TrtllmAlgo::fp8_per_token:
      add(".weight", DType::f8_e4m3, {n, k});
      add(".per_channel_scale", DType::f32, {n});
      break;
    case TrtllmAlgo::int4_awq:
      if (k % quant.group_size != 0)
        throw Error("group size " + std::to_string(quant.group_size) + " does not divide " + std::to_string(k) +
                        " input features",
                    spec.trtllm_name, "use a smaller group size, such as 64 or 32");
      if (n % 2 != 0 || k % 2 != 0)
        throw Error("int4 pairs rows and columns, and the layer is " + to_string(Shape{n, k}), spec.trtllm_name);
      add(".weight", DType::i8, {n / 2, k});
      add(".weights_scaling_factor", DType::f32, {n, k / quant.group_size});
      if (quant.prequant_scales) add(".prequant_scaling_factor", dtype, {k});
      break;
    case TrtllmAlgo::int8_static:
      add(".weight", DType::i8, {n, k});
      add(".weights_scaling_factor", DType::f32, {n});
      add(".activation_scaling_factor", DType::f32, {1});
      add(".prequant_scaling_factor", dtype, {k});
      break;
    case TrtllmAlgo::int8_per_token:
      add(".weight", DType::i8, {n, k});
      add(".per_channel_scale", DType::f32, {1, n});
      if (has_smoother(spec)) add(".smoother", DType::f32, {1, k});
      break;
  }
  return entries;
}

std::vector<std::pair<std::string, Tensor>> encode_trtllm_linear(const LinearSpec& spec, const LinearWeights& weights,
                                                                 const QuantSpec& quant, DType dtype) {
  return Encoder(spec, weights, dtype).run(trtllm_algo(quant), quant);
}

LinearWeights decode_trtllm_linear(const LinearSpec& spec, const QuantSpec& quant,
                                   const std::function<Tensor(const std::string&)>& get) {
  const auto named = [&](const char* suffix) { return get(spec.trtllm_name + suffix); };
  const auto scale = [&](const char* suffix, Shape shape) {
    const Tensor tensor = reshaped(named(suffix), std::move(shape));
    const bool divides = suffix == std::string_view(".activation_scaling_factor");
    check_scales(tensor, spec.trtllm_name + suffix, !divides);
    return convert_dtype(tensor, DType::f32, spec.trtllm_name + suffix);
  };
  const TrtllmAlgo algo = trtllm_algo(quant);
  LinearWeights weights;
  weights.format = quant.weights;
  weights.n = spec.n;
  weights.k = spec.k;
  weights.weight = named(".weight");
  switch (algo) {
    case TrtllmAlgo::none:
      break;
    case TrtllmAlgo::fp8:
      weights.weight_scale = scale(".weights_scaling_factor", {1});
      weights.input_scale = scale(".activation_scaling_factor", {1});
      break;
    case TrtllmAlgo::fp8_per_token:
      weights.weight_scale = scale(".per_channel_scale", {spec.n});
      break;
    case TrtllmAlgo::int4_awq:
      weights.group_size = quant.group_size;
      weights.weight = unpack_trtllm_int4(weights.weight);
      weights.weight_scale = scale(".weights_scaling_factor", {spec.n, spec.k / quant.group_size});
      if (quant.prequant_scales) weights.prequant_scale = scale(".prequant_scaling_factor", {spec.k});
      break;
    case TrtllmAlgo::int8_static:
      weights.weight_scale = scale(".weights_scaling_factor", {spec.n});
      weights.input_scale = scale(".activation_scaling_factor", {1});
      weights.prequant_scale = scale(".prequant_scaling_factor", {spec.k});
      break;
    case TrtllmAlgo::int8_per_token:
      weights.weight_scale = scale(".per_channel_scale", {spec.n});
      if (has_smoother(spec)) {
        const Tensor smoother = named(".smoother");
        check_scales(smoother, spec.trtllm_name + ".smoother", false);  // it divides
        weights.prequant_scale = reciprocals(smoother, {spec.k});
      }
      break;
  }
  // Older writers store the bytes of e4m3 as I8.
  if (quant.weights == WeightFormat::fp8) weights.weight.dtype = DType::f8_e4m3;
  return weights;
}

}  // namespace qg
