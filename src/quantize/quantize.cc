#include "quantize/quantize.h"

#include <algorithm>
#include <chrono>
#include <numeric>

#include "core/error.h"
#include "core/float.h"
#include "core/interrupt.h"
#include "core/utc.h"
#include "core/version.h"
#include "quantize/group.h"
#include "quantize/kv_scales.h"
#include "quantize/layer_pass.h"

namespace qg {
namespace {

using Clock = std::chrono::steady_clock;

std::vector<int64_t> input_widths(const ModelTable& table) {
  std::vector<int64_t> widths;
  for (const LinearSpec& spec : table.linears)
    if (std::find(widths.begin(), widths.end(), spec.k) == widths.end()) widths.push_back(spec.k);
  return widths;
}

// One checkpoint in the making: its own chain of hidden states, since it sees what its own quantized layers compute.
class OutputChain {
 public:
  OutputChain(const QuantizeJob& job, const QuantizeOutput& output, const std::vector<float>& embedded,
              const std::vector<int64_t>& lengths)
      : job_(job), output_(output), hidden_(embedded), lengths_(lengths) {
    options_.out = output.out;
    options_.layout = output.layout;
    options_.table = job.base->table();
    options_.quant = output.recipe.spec(input_widths(job.base->table()));
    options_.quant.fixed_kv = output.fixed_kv;
    options_.dtype = job.base->dtype() == DType::f32 ? DType::f16 : job.base->dtype();
    options_.architecture = job.architecture;
    writer_ = create_checkpoint(options_);
    report_.out = output.out;
  }

  void quantize_layer(const CpuLayer& original, int index) {
    const auto start = Clock::now();
    CpuLayer layer = original;
    const ModelShape& shape = job_.base->table().shape;
    LayerPass pass(shape, layer, lengths_, hidden_);
    const auto collect = [&](int64_t k, auto&& visit) {
      const int64_t rows = std::accumulate(lengths_.begin(), lengths_.end(), int64_t{0});
      ActivationCollector collector(k, rows, job_.options, output_.recipe.error_feedback);
      visit([&](std::span<const float> values, int64_t count) { collector.add(values, count); });
      return collector.finish();
    };
    const bool keep = output_.recipe.weights == WeightFormat::fp16;

    if (!keep)
      quantize_linears(layer, index, {LinearRole::qkv}, collect(shape.hidden, [&](const auto& v) { pass.visit_attention_in(v); }),
                       &layer.attention_norm);
    KvCollector keys, values;
    pass.attend([&](std::span<const float> x, int64_t) { keys.add(x); },
                [&](std::span<const float> x, int64_t) { values.add(x); });
    scales_.fp8.push_back({keys.scale(KvFormat::fp8), values.scale(KvFormat::fp8)});
    scales_.int8.push_back({keys.scale(KvFormat::int8), values.scale(KvFormat::int8)});
    if (!keep)
      quantize_linears(layer, index, {LinearRole::attention_output},
                       collect(shape.q_rows(), [&](const auto& v) { pass.visit_attention_out(v); }), nullptr);
    pass.add_attention();
    if (!keep)
      quantize_linears(layer, index, {LinearRole::gate, LinearRole::up},
                       collect(shape.hidden, [&](const auto& v) { pass.visit_mlp_in(v); }), &layer.mlp_norm);
    pass.run_gate();
    if (!keep)
      quantize_linears(layer, index, {LinearRole::down}, collect(shape.ffn, [&](const auto& v) { pass.visit_mlp_act(v); }),
                       nullptr);
    pass.add_mlp();
    write_layer(layer, index);
    report_.seconds += std::chrono::duration<double>(Clock::now() - start).count();
  }

  QuantizeReport finish() {
    for (const TensorSpec& spec : options_.table.tensors)
      if (spec.layer < 0) writer_->write(spec, stored(spec));
    writer_->set_kv_scales(scales_);
    writer_->set_lineage(lineage());
    writer_->copy_side_files(job_.base->folder());
    writer_->finish();
    if (groups_ > 0) report_.mean_relative_error /= groups_;
    return report_;
  }

 private:
  void quantize_linears(CpuLayer& layer, int index, const std::vector<LinearRole>& roles, ActivationStatistics input,
                        std::vector<float>* norm) {
    const ModelTable& table = options_.table;
    GroupProblem problem;
    problem.k = input.k;
    problem.input = std::move(input);
    problem.foldable = norm != nullptr && table.linear(roles.front(), index).producer_norm.has_value();
    for (LinearRole role : roles) {
      const std::vector<float> w = layer.linear(role).dequantized();
      problem.weight.insert(problem.weight.end(), w.begin(), w.end());
      problem.rows.push_back(table.linear(role, index).n);
      problem.n += problem.rows.back();
    }
    const std::string& name = table.linear(roles.front(), index).calibration_group;
    GroupResult result = quantize_group(std::move(problem), output_.recipe, options_.quant);
    for (size_t i = 0; i < roles.size(); ++i) {
      CpuLinear& linear = layer.linear(roles[i]);
      linear.weights = std::move(result.linears[i]);
      linear.activations = options_.quant.activations;
    }
    if (norm && !result.norm_multiplier.empty())
      for (size_t j = 0; j < norm->size(); ++j) (*norm)[j] = storable((*norm)[j] * result.norm_multiplier[j]);
    ++groups_;
    report_.mean_relative_error += result.relative_error;
    if (result.relative_error > report_.worst_relative_error) {
      report_.worst_relative_error = result.relative_error;
      report_.worst_layer = name;
    }
  }

  // A value as the checkpoint's 16-bit type stores it, so that the chain sees what a loader will see.
  float storable(float x) const {
    return options_.dtype == DType::bf16 ? f32_from_bf16(bf16_from_f32(x)) : f32_from_f16(f16_from_f32(x));
  }

  void write_layer(const CpuLayer& layer, int index) {
    const ModelTable& table = options_.table;
    for (const LinearSpec* spec : table.layer_linears(index)) writer_->write(*spec, layer.linear(spec->role).weights);
    const auto write_norm = [&](TensorRole role, const std::vector<float>& values) {
      const TensorSpec* spec = table.find(role, index);
      if (!spec) throw Error("the model table has no " + std::string(to_string(role)), "layer " + std::to_string(index));
      writer_->write(*spec, tensor_from_f32(values, spec->shape, options_.dtype));
    };
    write_norm(TensorRole::attention_norm, layer.attention_norm);
    write_norm(TensorRole::mlp_norm, layer.mlp_norm);
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
  std::vector<float> hidden_;
  const std::vector<int64_t>& lengths_;
  KvScales scales_;
  QuantizeReport report_;
  int groups_ = 0;
};

}  // namespace

int64_t estimate_quantize_bytes(const QuantizeJob& job) {
  const ModelShape& s = job.base->table().shape;
  const int64_t rows = job.calibration.num_tokens(), f = sizeof(float);
  const int64_t widest_k = std::max({s.hidden, s.q_rows(), s.ffn});
  const int64_t largest_linear = std::max({2 * s.ffn * s.hidden, s.qkv_rows() * s.hidden, s.hidden * s.ffn});
  const bool feedback = std::any_of(job.outputs.begin(), job.outputs.end(), [](const auto& o) { return o.recipe.error_feedback; });
  int64_t bytes = static_cast<int64_t>(job.outputs.size()) * rows * s.hidden * f;  // hidden states
  bytes += rows * s.q_rows() * f;                                                // attention, kept for a stage
  bytes += job.options.sample_rows * (widest_k + 2 * s.ffn) * f;                 // sampled inputs, outputs of searches
  bytes += 3 * largest_linear * f;                                               // weights, scaled copy, rounded copy
  if (feedback) bytes += 2 * widest_k * widest_k * f;
  bytes += s.linear_params() / s.layers * 2;                                     // the layer itself
  return bytes;
}

std::vector<QuantizeReport> quantize(const QuantizeJob& job, const std::function<void(const std::string&)>& on_step) {
  if (job.base->quant().weights != WeightFormat::fp16)
    throw Error("is quantized already (" + std::string(to_string(job.base->quant().weights)) + ")",
                job.base->folder().string(), "quantize the original 16-bit model");
  const ModelShape& shape = job.base->table().shape;
  std::vector<int64_t> lengths;
  std::vector<int32_t> tokens;
  for (const auto& sequence : job.calibration.sequences) {
    lengths.push_back(static_cast<int64_t>(sequence.size()));
    tokens.insert(tokens.end(), sequence.begin(), sequence.end());
  }
  std::vector<float> embedded(tokens.size() * static_cast<size_t>(shape.hidden));
  embed_tokens(*job.base, tokens, embedded.data());

  std::vector<std::unique_ptr<OutputChain>> chains;
  for (const QuantizeOutput& output : job.outputs)
    chains.push_back(std::make_unique<OutputChain>(job, output, embedded, lengths));
  embedded = {};
  for (int i = 0; i < shape.layers; ++i) {
    const CpuLayer original = load_cpu_layer(*job.base, i);
    for (size_t c = 0; c < chains.size(); ++c) {
      stop_if_interrupted("quantization starts again from the first layer");
      chains[c]->quantize_layer(original, i);
      on_step("layer " + std::to_string(i) + ", " + std::string(to_string(job.outputs[c].recipe.weights)));
    }
  }
  std::vector<QuantizeReport> reports;
  for (auto& chain : chains) reports.push_back(chain->finish());
  return reports;
}

}  // namespace qg
