#include "quantize/quantize.h"

#include <algorithm>
#include <chrono>

#include "checkpoint/fold.h"
#include "checkpoint/kv_scales.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/utc.h"
#include "core/version.h"
#include "kernels/blas.h"
#include "model/architecture.h"
#include "quantize/calibration_pass.h"
#include "quantize/group.h"
#include "quantize/input_check.h"
#include "quantize/kv_scales.h"
#include "quantize/kv_shaping.h"

namespace qg {
namespace {

using Clock = std::chrono::steady_clock;

std::vector<int64_t> input_widths(const ModelTable& table) {
  std::vector<int64_t> widths;
  for (const LinearSpec& spec : table.linears)
    if (std::find(widths.begin(), widths.end(), spec.k) == widths.end()) widths.push_back(spec.k);
  return widths;
}

// What was read of the base lies in a map of its files, which counts as this process's memory until it lets go of it.
void release_pages(const Checkpoint& base) {
  if (const TensorSet* files = base.stored()) files->release_pages();
}

// One checkpoint in the making.
class Output {
 public:
  Output(const QuantizeJob& job, const QuantizeOutput& output) : job_(job), output_(output) {
    options_.out = output.out;
    options_.layout = output.layout;
    options_.table = job.base->table();
    options_.quant = output.recipe.spec(input_widths(job.base->table()));
    options_.quant.fixed_kv = output.fixed_kv;
    place_ = prequant_place(output.layout, options_.quant);
    if (place_ == PrequantPlace::nowhere) options_.quant.prequant_scales = false;
    const bool always_f16 = job.base->dtype() == DType::f32 || output.layout == Layout::autoawq;
    options_.dtype = always_f16 ? DType::f16 : job.base->dtype();
    options_.architecture = job.architecture;
    options_.hf_rules = hf_rules_of_family(job.base->table().shape.family);
    options_.ranks = output.ranks;
    writer_ = create_checkpoint(options_);
    report_.out = output.out;
  }

  const Recipe& recipe() const { return output_.recipe; }

  void begin_layer(const CpuLayer& original, int index) {
    layer_ = original;
    index_ = index;
  }

  // Quantizes the linear layers that read one activation. norm: the one that made it, or null.
  void quantize_linears(const std::vector<LinearRole>& roles, ActivationStatistics input,
                        std::vector<float> CpuLayer::*norm) {
    if (output_.recipe.weights == WeightFormat::fp16) return;
    const auto start = Clock::now();
    const ModelTable& table = options_.table;
    GroupProblem problem;
    problem.k = input.k;
    problem.input = std::move(input);
    problem.foldable = norm != nullptr && table.linear(roles.front(), index_).producer_norm.has_value();
    if (place_ == PrequantPlace::nowhere && roles.front() == LinearRole::attention_output)
      problem.shared_scales = shared_output_scales(table.shape);
    for (LinearRole role : roles) {
      const std::vector<float> w = layer_.linear(role).dequantized();
      problem.weight.insert(problem.weight.end(), w.begin(), w.end());
      problem.rows.push_back(table.linear(role, index_).n);
      problem.n += problem.rows.back();
    }
    GroupResult result = quantize_group(std::move(problem), output_.recipe, options_.quant);
    for (size_t i = 0; i < roles.size(); ++i) layer_.linear(roles[i]).weights = std::move(result.linears[i]);
    if (norm && !result.norm_multiplier.empty())
      for (size_t j = 0; j < result.norm_multiplier.size(); ++j) (layer_.*norm)[j] *= result.norm_multiplier[j];
    ++groups_;
    report_.mean_relative_error += result.relative_error;
    if (result.relative_error > report_.worst_relative_error) {
      report_.worst_relative_error = result.relative_error;
      report_.worst_layer = table.linear(roles.front(), index_).calibration_group;
    }
    report_.seconds += std::chrono::duration<double>(Clock::now() - start).count();
  }

  void end_layer() {
    const ModelTable& table = options_.table;
    if (options_.quant.weights == WeightFormat::int4_awq || options_.quant.weights == WeightFormat::int8_sq)
      fold_scales();
    for (const LinearSpec* spec : table.layer_linears(index_)) writer_->write(*spec, layer_.linear(spec->role).weights);
    write_norm(TensorRole::attention_norm, layer_.attention_norm);
    write_norm(TensorRole::mlp_norm, layer_.mlp_norm);
  }

  QuantizeReport finish(const KvScales& scales) {
    for (const TensorSpec& spec : options_.table.tensors) {
      if (spec.layer >= 0) continue;
      writer_->write(spec, stored(spec));
      release_pages(*job_.base);
    }
    writer_->set_kv_scales(scales);
    writer_->set_lineage(lineage());
    writer_->copy_side_files(job_.base->folder());
    writer_->finish();
    if (groups_ > 0) report_.mean_relative_error /= groups_;
    return report_;
  }

 private:
  // Moves the input scales that the layout has no place for into what makes the inputs.
  void fold_scales() {
    LayerWeights layer;
    layer.attention_norm = std::move(layer_.attention_norm);
    layer.mlp_norm = std::move(layer_.mlp_norm);
    const auto specs = options_.table.layer_linears(index_);
    for (const LinearSpec* spec : specs) layer.linears[spec->role] = layer_.linear(spec->role).weights;
    fold_prequant(layer, options_.table, index_, place_);
    for (const LinearSpec* spec : specs) layer_.linear(spec->role).weights = layer.linears.at(spec->role);
    layer_.attention_norm = std::move(layer.attention_norm);
    layer_.mlp_norm = std::move(layer.mlp_norm);
  }

  void write_norm(TensorRole role, const std::vector<float>& values) {
    const TensorSpec* spec = options_.table.find(role, index_);
    if (!spec) throw Error("the model table has no " + std::string(to_string(role)), "layer " + std::to_string(index_));
    writer_->write(*spec, tensor_from_f32(values, spec->shape, options_.dtype));
  }

  Tensor stored(const TensorSpec& spec) const {
    const Tensor tensor = job_.base->tensor(spec);
    return tensor.dtype == options_.dtype ? tensor : tensor_from_f32(to_f32(tensor), tensor.shape, options_.dtype);
  }

  Lineage lineage() const {
    Lineage l;
    l.base_model = std::filesystem::absolute(job_.base->folder()).lexically_normal().filename().string();
    l.base_hash = job_.base->weights_hash();
    l.recipe = output_.recipe.to_json();
    if (options_.quant.group_size > 0) l.recipe["group_size"] = options_.quant.group_size;
    l.recipe["calibration"] = {{"text", job_.calibration.name},
                               {"sequences", job_.options.sequences},
                               {"tokens", job_.options.tokens},
                               {"search_rows", job_.options.sample_rows}};
    l.recipe["kv_keys"] = "shaped";
    if (output_.layout != Layout::trtllm) l.recipe["layout"] = std::string(to_string(output_.layout));
    if (output_.ranks != 1) l.recipe["ranks"] = output_.ranks;
    l.calibration_hash = job_.calibration.hash;
    l.seed = job_.options.seed;
    l.tool_version = version();
    l.tool_commit = build_commit();
    l.created = utc_now();
    return l;
  }

  const QuantizeJob& job_;
  const QuantizeOutput& output_;
  WriterOptions options_;
  std::unique_ptr<CheckpointWriter> writer_;
  PrequantPlace place_ = PrequantPlace::anywhere;
  CpuLayer layer_;  // the one being quantized
  int index_ = 0;
  QuantizeReport report_;
  int groups_ = 0;
};

// The 16-bit model's activations, a layer at a time; every output is quantized from the same ones. (Feeding each output
// what its own quantized layers compute was tried: no gain, and a pass over the text for each.)
class Calibration {
 public:
  Calibration(const QuantizeJob& job, std::vector<Output>& outputs) : job_(job), outputs_(outputs) {
    std::vector<int32_t> tokens;
    for (const auto& sequence : job.calibration.sequences) {
      lengths_.push_back(static_cast<int64_t>(sequence.size()));
      tokens.insert(tokens.end(), sequence.begin(), sequence.end());
    }
    rows_ = static_cast<int64_t>(tokens.size());
    hidden_.resize(tokens.size() * static_cast<size_t>(job.base->table().shape.hidden));
    embed_tokens(*job.base, tokens, hidden_.data());
    for (const Output& output : outputs) {
      with_gram_ |= output.recipe().error_feedback && output.recipe().weights != WeightFormat::fp16;
      needed_ |= output.recipe().weights != WeightFormat::fp16;
    }
  }

  void run_layer(int index, const std::function<void(const std::string&)>& on_step) {
    const ModelShape& shape = job_.base->table().shape;
    layer_ = index;
    check_finite_layer(*job_.base, index);
    const CpuLayer layer = load_cpu_layer(*job_.base, index);
    for (Output& output : outputs_) output.begin_layer(layer, index);
    CalibrationPass pass(shape, layer, lengths_, hidden_);
    const std::string name = "layer " + std::to_string(index) + ": ";

    on_step(name + "qkv");
    quantize({LinearRole::qkv}, shape.hidden, &CpuLayer::attention_norm,
             [&](const auto& v) { pass.visit_attention_in(v); });
    calibrate_cache(pass, layer);
    on_step(name + "attention output");
    quantize({LinearRole::attention_output}, shape.q_rows(), nullptr,
             [&](const auto& v) { pass.visit_attention_out(v); });
    pass.add_attention();
    on_step(name + "gate and up");
    quantize({LinearRole::gate, LinearRole::up}, shape.hidden, &CpuLayer::mlp_norm,
             [&](const auto& v) { pass.visit_mlp_in(v); });
    pass.run_gate();
    on_step(name + "down");
    quantize({LinearRole::down}, shape.ffn, nullptr, [&](const auto& v) { pass.visit_mlp_act(v); });
    pass.add_mlp();
    for (Output& output : outputs_) output.end_layer();
    release_pages(*job_.base);
  }

  const KvScales& kv_scales() const { return kv_scales_; }

 private:
  // Runs attention, and finds the layer's scales and its shaping.
  void calibrate_cache(CalibrationPass& pass, const CpuLayer& layer) {
    const ModelShape& shape = job_.base->table().shape;
    KvCollector keys, values;
    KvShapingCollector shaping(shape, layer.attention_output.dequantized(), rows_);
    pass.attend([&](const float* qkv, int64_t rows) {
      for (int64_t r = 0; r < rows; ++r) {
        const float* k = qkv + r * shape.qkv_rows() + shape.q_rows();
        keys.add({k, static_cast<size_t>(shape.kv_rows())});
        values.add({k + shape.kv_rows(), static_cast<size_t>(shape.kv_rows())});
      }
      shaping.add(qkv, rows);
    });
    kv_scales_.fp8.push_back({keys.scale(KvFormat::fp8), values.scale(KvFormat::fp8)});
    kv_scales_.int8.push_back({keys.scale(KvFormat::int8), values.scale(KvFormat::int8)});
    kv_scales_.shaping.push_back(shaping.finish());
  }

  void quantize(const std::vector<LinearRole>& roles, int64_t k, std::vector<float> CpuLayer::*norm,
                const std::function<void(const CalibrationPass::Visitor&)>& visit) {
    stop_if_interrupted("quantization starts again from the first layer");
    if (!needed_) return;
    ActivationCollector collector(k, rows_, job_.options, with_gram_);
    visit([&](std::span<const float> values, int64_t count) { collector.add(values, count); });
    ActivationStatistics statistics = collector.finish();
    check_finite_activations(statistics.absmax,
                             "layer " + std::to_string(layer_) + ", input of " + std::string(to_string(roles.front())));
    for (size_t i = 0; i < outputs_.size(); ++i)
      outputs_[i].quantize_linears(roles, i + 1 == outputs_.size() ? std::move(statistics) : statistics, norm);
  }

  const QuantizeJob& job_;
  std::vector<Output>& outputs_;
  std::vector<int64_t> lengths_;
  std::vector<float> hidden_;  // [rows, hidden]
  int64_t rows_ = 0;
  int layer_ = 0;  // the one being run, for errors
  KvScales kv_scales_;
  bool with_gram_ = false, needed_ = false;
};

}  // namespace

int64_t estimate_quantize_bytes(const QuantizeJob& job) {
  const ModelShape& s = job.base->table().shape;
  const int64_t rows = job.calibration.num_tokens(), f = sizeof(float);
  const int64_t widest_k = std::max({s.hidden, s.q_rows(), s.ffn});
  const int64_t largest_linear = std::max({2 * s.ffn * s.hidden, s.qkv_rows() * s.hidden, s.hidden * s.ffn});
  const bool feedback =
      std::any_of(job.outputs.begin(), job.outputs.end(), [](const auto& o) { return o.recipe.error_feedback; });
  int64_t bytes = rows * s.hidden * f;                            // hidden states
  bytes += rows * s.q_rows() * f;                                 // attention, kept for a stage
  bytes += job.options.sample_rows * (widest_k + 2 * s.ffn) * f;  // sampled inputs, outputs of searches
  bytes += 3 * largest_linear * f;                                // weights, scaled copy, rounded copy
  if (feedback) bytes += (job.outputs.size() > 1 ? 2 : 1) * widest_k * widest_k * f;
  bytes += s.linear_params() / s.layers * 2;  // the layer itself
  return bytes;
}

std::vector<QuantizeReport> quantize(const QuantizeJob& job, const std::function<void(const std::string&)>& on_step) {
  require_sound_blas();
  if (job.base->quant().weights != WeightFormat::fp16)
    throw Error("is quantized already (" + std::string(to_string(job.base->quant().weights)) + ")",
                job.base->folder().string(), "quantize the original 16-bit model");
  std::vector<Output> outputs;
  for (const QuantizeOutput& output : job.outputs) outputs.emplace_back(job, output);
  check_finite_layer(*job.base, -1);
  Calibration calibration(job, outputs);
  for (int i = 0; i < job.base->table().shape.layers; ++i) calibration.run_layer(i, on_step);
  std::vector<QuantizeReport> reports;
  for (Output& output : outputs) reports.push_back(output.finish(calibration.kv_scales()));
  if (!job.kv_scales.empty())
    write_kv_scales_file(job.kv_scales, calibration.kv_scales(), job.base->table().shape, job.base->weights_hash());
  return reports;
}

}  // namespace qg
