#include "quantize/quantize.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "checkpoint/fold.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/log.h"
#include "kernels/blas.h"
#include "quantize/calibration_pass.h"
#include "quantize/group.h"
#include "quantize/input_check.h"
#include "quantize/kv_scales.h"
#include "quantize/kv_shaping.h"
#include "quantize/quantize_run.h"

namespace qg {
namespace {

using Clock = std::chrono::steady_clock;

// What was read of the base lies in a map of its files, which counts as this process's memory until it lets go of it.
void release_pages(const Checkpoint& base) {
  if (const TensorSet* files = base.stored()) files->release_pages();
}

// The 16-bit model's activations, a layer at a time; every output is quantized from the same ones. (Feeding each output
// what its own quantized layers compute was tried: no gain, and a pass over the text for each.)
class Calibration {
 public:
  Calibration(const QuantizeJob& job, QuantizeRun& run) : job_(job), run_(run) {
    std::vector<int32_t> tokens;
    for (const auto& sequence : job.calibration.sequences) {
      lengths_.push_back(static_cast<int64_t>(sequence.size()));
      tokens.insert(tokens.end(), sequence.begin(), sequence.end());
    }
    rows_ = static_cast<int64_t>(tokens.size());
    hidden_.resize(tokens.size() * static_cast<size_t>(job.base->table().shape.hidden));
    embed_tokens(*job.base, tokens, hidden_.data());
  }

  // A layer that an earlier run has quantized: only what the next one reads is computed.
  void pass_layer(int index) {
    const CpuLayer layer = load_cpu_layer(*job_.base, index);
    CalibrationPass pass(job_.base->table().shape, layer, lengths_, hidden_);
    pass.attend({});
    pass.add_attention();
    pass.run_gate();
    pass.add_mlp();
    release_pages(*job_.base);
  }

  void run_layer(int index, const std::function<void(const std::string&)>& on_step) {
    const ModelShape& shape = job_.base->table().shape;
    check_finite_layer(*job_.base, index);
    const CpuLayer layer = load_cpu_layer(*job_.base, index);
    results_.assign(run_.outputs(), begin_result(layer));
    CalibrationPass pass(shape, layer, lengths_, hidden_);
    const std::string name = "layer " + std::to_string(index) + ": ";

    on_step(name + "qkv");
    quantize(layer, index, {LinearRole::qkv}, &LayerResult::attention_norm,
             [&](const auto& v) { pass.visit_attention_in(v); });
    LayerKv kv = calibrate_cache(pass, layer);
    on_step(name + "attention output");
    quantize(layer, index, {LinearRole::attention_output}, nullptr,
             [&](const auto& v) { pass.visit_attention_out(v); });
    pass.add_attention();
    on_step(name + "gate and up");
    quantize(layer, index, {LinearRole::gate, LinearRole::up}, &LayerResult::mlp_norm,
             [&](const auto& v) { pass.visit_mlp_in(v); });
    pass.run_gate();
    on_step(name + "down");
    quantize(layer, index, {LinearRole::down}, nullptr, [&](const auto& v) { pass.visit_mlp_act(v); });
    pass.add_mlp();
    run_.finish_layer(index, std::move(results_), std::move(kv));
    release_pages(*job_.base);
  }

 private:
  static LayerResult begin_result(const CpuLayer& layer) {
    LayerResult result;
    for (const LinearRole role :
         {LinearRole::qkv, LinearRole::attention_output, LinearRole::gate, LinearRole::up, LinearRole::down})
      result.linears[role] = layer.linear(role).weights;
    result.attention_norm = layer.attention_norm;
    result.mlp_norm = layer.mlp_norm;
    return result;
  }

  // Runs attention, and finds the layer's scales and its shaping.
  LayerKv calibrate_cache(CalibrationPass& pass, const CpuLayer& layer) {
    const ModelShape& shape = job_.base->table().shape;
    KvCollector keys, values;
    LayerKv kv;
    kv.value_max.assign(static_cast<size_t>(shape.kv_rows()), 0);
    KvShapingCollector shaping(shape, layer.attention_output.dequantized(), rows_);
    pass.attend([&](const float* qkv, int64_t rows) {
      for (int64_t r = 0; r < rows; ++r) {
        const float* k = qkv + r * shape.qkv_rows() + shape.q_rows();
        keys.add({k, static_cast<size_t>(shape.kv_rows())});
        const std::span v(k + shape.kv_rows(), static_cast<size_t>(shape.kv_rows()));
        values.add(v);
        for (size_t c = 0; c < v.size(); ++c) kv.value_max[c] = std::max(kv.value_max[c], std::fabs(v[c]));
      }
      shaping.add(qkv, rows);
    });
    kv.fp8 = {keys.scale(KvFormat::fp8), values.scale(KvFormat::fp8)};
    kv.int8 = {keys.scale(KvFormat::int8), values.scale(KvFormat::int8)};
    kv.shaping = shaping.finish();
    kv.values = values.sample();
    return kv;
  }

  // The linear layers that read one activation. norm: the one that made it, or null.
  void quantize(const CpuLayer& layer, int index, const std::vector<LinearRole>& roles,
                std::vector<float> LayerResult::*norm,
                const std::function<void(const CalibrationPass::Visitor&)>& visit) {
    stop_if_interrupted("quantization goes on after the last finished layer");
    if (!run_.quantizes()) return;
    const ModelTable& table = job_.base->table();
    const LinearSpec& first = table.linear(roles.front(), index);
    ActivationCollector collector(first.k, rows_, job_.options, run_.wants_gram());
    visit([&](std::span<const float> values, int64_t count) { collector.add(values, count); });
    ActivationStatistics statistics = collector.finish();
    check_finite_sums(statistics.abs_sum, "input of " + first.calibration_group, "");
    for (size_t i = 0; i < run_.outputs(); ++i) {
      if (run_.recipe(i).weights == WeightFormat::fp16) continue;
      const auto start = Clock::now();
      GroupProblem problem;
      problem.k = first.k;
      problem.input = i + 1 == run_.outputs() ? std::move(statistics) : statistics;
      problem.foldable = norm != nullptr && first.producer_norm.has_value();
      if (run_.folds_everything(i) && first.role == LinearRole::attention_output)
        problem.shared_scales = shared_output_scales(table.shape);
      for (const LinearRole role : roles) {
        const std::vector<float> w = layer.linear(role).dequantized();
        problem.weight.insert(problem.weight.end(), w.begin(), w.end());
        problem.rows.push_back(table.linear(role, index).n);
        problem.n += problem.rows.back();
      }
      LayerResult& result = results_[i];
      result.take(roles, quantize_group(std::move(problem), run_.recipe(i), run_.spec(i)),
                  norm ? &(result.*norm) : nullptr, first.calibration_group);
      result.seconds += std::chrono::duration<double>(Clock::now() - start).count();
    }
  }

  const QuantizeJob& job_;
  QuantizeRun& run_;
  std::vector<int64_t> lengths_;
  std::vector<float> hidden_;  // [rows, hidden]
  int64_t rows_ = 0;
  std::vector<LayerResult> results_;  // of the layer being quantized, one an output
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

void require_sixteen_bits(const QuantizeJob& job) {
  if (job.base->quant().weights != WeightFormat::fp16)
    throw Error("is quantized already (" + std::string(to_string(job.base->quant().weights)) + ")",
                job.base->folder().string(), "quantize the original 16-bit model");
}

std::vector<QuantizeReport> quantize(const QuantizeJob& job, const std::function<void(const std::string&)>& on_step) {
  require_sound_blas();
  require_sixteen_bits(job);
  check_finite_layer(*job.base, -1);
  QuantizeRun run(job, "cpu");
  const int layers = job.base->table().shape.layers, finished = run.finished_layers();
  if (finished > 0) info("going on after layer {} of {}", finished, layers);
  for (int i = 0; i < finished; ++i) run.restore_layer(i);
  if (finished < layers) {
    Calibration calibration(job, run);
    for (int i = 0; i < layers; ++i) {
      if (i >= finished) {
        calibration.run_layer(i, on_step);
        continue;
      }
      for (int64_t s = 0; s < kQuantizeSteps; ++s) on_step("layer " + std::to_string(i) + ": done before");
      calibration.pass_layer(i);
    }
  }
  return run.finish();
}

}  // namespace qg
