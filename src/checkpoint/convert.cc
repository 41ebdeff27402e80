#include "checkpoint/convert.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <map>

#include "checkpoint/fold.h"
#include "checkpoint/folder_checkpoint.h"
#include "checkpoint/trtllm.h"
#include "core/error.h"
#include "core/interrupt.h"

namespace qg {
namespace {

bool holds_zero_points(Layout layout) {
  return layout == Layout::compressed_tensors || layout == Layout::autoawq;
}

bool all_eight(const Tensor& zeros) {
  if (zeros.empty()) return true;
  const uint8_t* z = zeros.as<uint8_t>();
  return std::all_of(z, z + zeros.elements(), [](uint8_t v) { return v == 8; });
}

// Greatest relative change of rounding to a type.
double rounding_of(const std::vector<float>& values, DType dtype) {
  const Tensor exact = tensor_from_f32(values, {static_cast<int64_t>(values.size())});
  const std::vector<float> stored = to_f32(convert_dtype(exact, dtype, "a scale"));
  double greatest = 0;
  for (size_t i = 0; i < values.size(); ++i)
    if (values[i] != 0) greatest = std::max(greatest, std::fabs(static_cast<double>(stored[i]) / values[i] - 1.0));
  return greatest;
}

class Conversion {
 public:
  Conversion(const Checkpoint& from, const ConvertOptions& options) : from_(from), options_(options) {
    refuse_losses();
    writer_options_.out = options.out;
    writer_options_.layout = options.layout;
    writer_options_.table = from.table();
    writer_options_.dtype = from.dtype();
    writer_options_.architecture = options.architecture;
    writer_options_.hf_rules = options.hf_rules;
    writer_options_.ranks = std::max<int64_t>(options.ranks, 1);
    writer_options_.quant = target_quant();
    kv_scales_ = from.kv_scales();
    place_ = prequant_place(options.layout, writer_options_.quant);
    if (options.layout == Layout::autoawq && from.quant().weights != WeightFormat::int4_awq)
      throw Error(fmt::format("the AutoAWQ layout cannot hold {} weights", to_string(from.quant().weights)), where(),
                  "it is for int4_awq");
    check_layers();
  }

  std::vector<std::string> run() {
    const auto writer = create_checkpoint(writer_options_);
    for (int i = 0; i < from_.table().shape.layers; ++i) {
      stop_if_interrupted("from the start: the folder was not finished");
      const LayerWeights layer = converted_layer(i);
      for (const LinearSpec* spec : from_.table().layer_linears(i)) {
        const LinearWeights& linear = layer.linears.at(spec->role);
        writer->write(*spec, linear);
        if (linear.format == WeightFormat::fp16) see_type(linear.weight, static_cast<int64_t>(spec->parts.size()));
      }
      write_norm(*writer, TensorRole::attention_norm, i, layer.attention_norm);
      write_norm(*writer, TensorRole::mlp_norm, i, layer.mlp_norm);
      release();
    }
    for (const TensorSpec& spec : from_.table().tensors) {
      if (spec.layer >= 0) continue;
      const Tensor tensor = from_.tensor(spec);
      writer->write(spec, tensor);
      see_type(tensor, 1);
    }
    writer->set_kv_scales(kv_scales_);
    if (from_.lineage()) writer->set_lineage(lineage());
    writer->copy_side_files(from_.folder());
    writer->finish();
    return notes();
  }

 private:
  std::string where() const { return from_.folder().string(); }
  std::string_view target() const { return to_string(options_.layout); }

  void refuse_losses() const {
    if (options_.kv && *options_.kv == KvFormat::fp16)
      throw Error("an fp16 KV cache needs no fixed format", "--kv", "leave --kv out");
    if (options_.kv && from_.quant().fixed_kv && *from_.quant().fixed_kv != *options_.kv)
      throw Error("the KV format is fixed already, to " + std::string(to_string(*from_.quant().fixed_kv)), where(),
                  "convert the -kv_fp16 folder it was made from");
    if (options_.kv == KvFormat::int8 && from_.kv_scales().int8.empty())
      throw Error("there are no calibrated int8 KV scales", where(), "quantize the model again, with KV calibration");
    if (options_.layout == Layout::huggingface && (options_.kv || from_.quant().fixed_kv))
      throw Error("the plain Hugging Face layout has no place for a fixed KV format", options_.kv ? "--kv" : where(),
                  options_.kv ? "leave --kv out: the KV format is chosen at run time"
                              : "convert the -kv_fp16 folder it was made from");
    if (options_.layout == Layout::huggingface && from_.quant().weights != WeightFormat::fp16)
      throw Error(
          fmt::format("the plain Hugging Face layout holds 16-bit weights: the {} codes and scales would be lost",
                      to_string(from_.quant().weights)),
          where(), "use the 16-bit model that it was made from");
  }

  QuantSpec target_quant() const {
    QuantSpec quant = from_.quant();
    if (options_.kv) quant.fixed_kv = options_.kv;
    const bool nowhere = prequant_place(options_.layout, quant) == PrequantPlace::nowhere;
    if (nowhere) quant.prequant_scales = false;
    const bool stores_them = options_.layout == Layout::modelopt || quant.weights == WeightFormat::int8_sq;
    if (!nowhere && stores_them && quant.weights != WeightFormat::fp8) quant.prequant_scales = true;
    if (quant.weights == WeightFormat::int4_awq)
      quant.zero_points = options_.layout == Layout::autoawq || zero_points();
    return quant;
  }

  // Whether zero points must be kept; those of 8 say nothing.
  bool zero_points() const {
    if (!from_.quant().zero_points) return false;
    if (holds_zero_points(options_.layout)) return true;
    for (const LinearSpec& spec : from_.table().linears)
      if (!all_eight(from_.linear(spec).zero_point))
        throw Error(fmt::format("its 4-bit groups have zero points, which the {} layout would lose", target()), where(),
                    "convert to compressed-tensors or autoawq, or quantize the 16-bit model for this layout");
    return false;
  }

  // Everything that a layer can be refused for, before the first is written.
  void check_layers() const {
    for (int i = 0; i < from_.table().shape.layers; ++i) {
      stop_if_interrupted("nothing was written");
      LayerWeights layer = loaded_layer(i);
      const LinearWeights& qkv = layer.linears.at(LinearRole::qkv);
      if (options_.layout == Layout::trtllm && qkv.format == WeightFormat::fp8 && !qkv.input_scale.empty() &&
          qkv.weight_scale.elements() > 1)
        throw Error(
            "q, k and v have weight scales of their own, and the trtllm layout has one FP8 scale for them: they "
            "would have to be quantized again",
            where() + fmt::format(", layer {}", i), "quantize the 16-bit model for this layout");
      fold_prequant(layer, from_.table(), i, place_);
    }
    release();
  }

  LayerWeights loaded_layer(int index) const {
    LayerWeights layer;
    const ModelTable& table = from_.table();
    layer.attention_norm = to_f32(from_.tensor(*table.find(TensorRole::attention_norm, index)));
    layer.mlp_norm = to_f32(from_.tensor(*table.find(TensorRole::mlp_norm, index)));
    for (const LinearSpec* spec : table.layer_linears(index)) layer.linears[spec->role] = from_.linear(*spec);
    return layer;
  }

  LayerWeights converted_layer(int index) {
    LayerWeights layer = loaded_layer(index);
    fit_kv_scales(fold_prequant(layer, from_.table(), index, place_), static_cast<size_t>(index));
    for (auto& [role, weights] : layer.linears) {
      if (!writer_options_.quant.zero_points) weights.zero_point = {};
      if (writer_options_.quant.zero_points && weights.zero_point.empty()) weights.zero_point = eights(weights);
      const bool narrow = options_.layout == Layout::compressed_tensors || options_.layout == Layout::autoawq;
      if (narrow && weights.format == WeightFormat::int4_awq)
        scale_rounding_ = std::max(scale_rounding_, rounding_of(to_f32(weights.weight_scale), writer_options_.dtype));
    }
    return layer;
  }

  // Without the calibration text only a bound of the values is known when each channel is multiplied by a factor: it is
  // not exceeded.
  void fit_kv_scales(const std::vector<float>& of_values, size_t layer) {
    if (of_values.empty()) return;
    const float most = *std::max_element(of_values.begin(), of_values.end());
    for (std::vector<KvScale>* scales : {&kv_scales_.fp8, &kv_scales_.int8})
      if (!scales->empty()) scales->at(layer).v *= most;
    ++layers_with_other_values_;
  }

  static Tensor eights(const LinearWeights& w) {
    const NewTensor made = new_tensor(DType::u8, {w.n, w.k / w.group_size});
    std::fill_n(made.as<uint8_t>(), made.tensor.elements(), uint8_t{8});
    return made.tensor;
  }

  void write_norm(CheckpointWriter& writer, TensorRole role, int index, const std::vector<float>& values) {
    const TensorSpec& spec = *from_.table().find(role, index);
    const Tensor stored = from_.tensor(spec);
    if (to_f32(stored) == values) {
      writer.write(spec, stored);
      see_type(stored, 1);
      return;
    }
    norm_rounding_ = std::max(norm_rounding_, rounding_of(values, writer_options_.dtype));
    writer.write(spec, tensor_from_f32(values, spec.shape));
  }

  // Of what was written from `tensor`, which held `count` of the folder's: the layouts have one type for all, the
  // embedding's, and folders come with norms in F32 beside a BF16 embedding.
  void see_type(const Tensor& tensor, int64_t count) {
    if (tensor.dtype == writer_options_.dtype) return;
    const double rounding = rounding_of(to_f32(tensor), writer_options_.dtype);
    if (rounding == 0) return;
    Rounded& of_type = rounded_[tensor.dtype];
    of_type.tensors += count;
    of_type.greatest = std::max(of_type.greatest, rounding);
  }

  Lineage lineage() const {
    Lineage l = *from_.lineage();
    l.recipe["converted_from"] = std::string(to_string(from_.layout()));
    if (options_.kv) l.recipe["fixed_kv"] = std::string(to_string(*options_.kv));
    describe_folder(l, writer_options_.layout, writer_options_.ranks);
    return l;
  }

  std::vector<std::string> notes() const {
    std::vector<std::string> list;
    const auto type = to_string(writer_options_.dtype);
    for (const auto& [stored, rounded] : rounded_)
      list.push_back(fmt::format("{} tensors of {} are stored as {}, the embedding's type: rounded by at most {:.2g} %",
                                 rounded.tensors, to_string(stored), type, 100 * rounded.greatest));
    if (norm_rounding_ > 0)
      list.push_back(
          fmt::format("input scales were folded into the norms before them, which are stored as {}: rounded "
                      "by at most {:.2g} %",
                      type, 100 * norm_rounding_));
    if (scale_rounding_ > 0)
      list.push_back(
          fmt::format("group scales are stored as {}: rounded by at most {:.2g} %", type, 100 * scale_rounding_));
    if (layers_with_other_values_ > 0 && !(kv_scales_.fp8.empty() && kv_scales_.int8.empty()))
      list.push_back(fmt::format(
          "the scale of the attention output's input was folded into V in {} layers: V's KV scale is a bound "
          "there; calibrated for this layout it would be finer",
          layers_with_other_values_));
    return list;
  }

  void release() const {
    if (const TensorSet* files = from_.stored()) files->release_pages();
  }

  const Checkpoint& from_;
  const ConvertOptions& options_;
  WriterOptions writer_options_;
  PrequantPlace place_ = PrequantPlace::nowhere;
  KvScales kv_scales_;
  int64_t layers_with_other_values_ = 0;
  double norm_rounding_ = 0, scale_rounding_ = 0;
  struct Rounded {
    int64_t tensors = 0;
    double greatest = 0;  // relative
  };
  std::map<DType, Rounded> rounded_;  // by the type that they had
};

std::vector<std::string> kv_notes(const Checkpoint& from, const ConvertOptions& options) {
  const std::optional<KvFormat> kv = options.kv ? options.kv : from.quant().fixed_kv;
  if (!kv || *kv == KvFormat::fp16) return {};
  std::vector<std::string> list;
  if (from.kv_scales().of(*kv).empty())
    list.push_back(fmt::format("no calibrated {} KV scales: all are written as 1, as other tools do", to_string(*kv)));
  if (options.layout == Layout::trtllm && merged_kv_scales(from, *kv) > 0)
    list.push_back(
        fmt::format("the layout has one KV scale a layer: the greater of K's and V's, which differ in {} "
                    "layers",
                    merged_kv_scales(from, *kv)));
  if (!from.kv_scales().shaping.empty())
    list.push_back("shaped keys are Quantgrid's own: a fixed KV format stores plain keys");
  return list;
}

}  // namespace

std::vector<std::string> convert_checkpoint(const Checkpoint& from, const ConvertOptions& options) {
  std::vector<std::string> notes = kv_notes(from, options);
  if (from.layout() == Layout::trtllm && options.layout == Layout::trtllm) {
    rewrite_trtllm(from, options.kv, options.ranks, options.out);
    return notes;
  }
  for (std::string& note : Conversion(from, options).run()) notes.push_back(std::move(note));
  return notes;
}

}  // namespace qg
