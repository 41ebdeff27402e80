#include <algorithm>
#include <chrono>

#include "checkpoint/fold.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/log.h"
#include "core/memory.h"
#include "quantize/cuda_group.h"
#include "quantize/cuda_pass.h"
#include "quantize/cuda_pinned_pool.h"
#include "quantize/gpu_quantize.h"
#include "quantize/input_check.h"
#include "quantize/quantize_run.h"

namespace qg {
namespace {

using Clock = std::chrono::steady_clock;
double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

struct Stream {
  Stream() { QG_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking)); }
  ~Stream() { cudaStreamDestroy(stream); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  cudaStream_t stream = nullptr;
};

// A group of linear layers that read one activation.
struct Group {
  TappedInput input;
  std::vector<LinearRole> roles;
  CudaStoredLinear CudaStoredLayer::*linear;
  std::vector<float> LayerResult::*norm;  // the one that made the input, or null
};

const std::vector<Group>& groups() {
  static const std::vector<Group> all{
      {TappedInput::attention_in, {LinearRole::qkv}, &CudaStoredLayer::qkv, &LayerResult::attention_norm},
      {TappedInput::attention_out, {LinearRole::attention_output}, &CudaStoredLayer::attention_output, nullptr},
      {TappedInput::mlp_in, {LinearRole::gate, LinearRole::up}, &CudaStoredLayer::gate_up, &LayerResult::mlp_norm},
      {TappedInput::mlp_act, {LinearRole::down}, &CudaStoredLayer::down, nullptr}};
  return all;
}

class GpuQuantization {
 public:
  GpuQuantization(const QuantizeJob& job, const GpuQuantizeOptions& options, QuantizeRun& run, const GpuBudget& budget)
      : job_(job),
        run_(run),
        device_(read_device_capabilities(options.device)),
        blas_(device_),
        queue_{stream_.stream},
        phases_(stream_.stream),
        weights_(*job.base, options.device, queue_),
        pass_(*job.base, job.calibration, job.options, budget, device_, blas_, queue_,
              {run.quantizes(), run.wants_gram()}),
        kv_(job.base->table().shape, lengths(job), queue_) {
    if (run.quantizes())
      quantizer_ = std::make_unique<CudaGroupQuantizer>(
          group_sizes(job.base->table().shape, sampled(job), run.wants_gram()), blas_, queue_,
          [this](DType type, Shape shape) { return pool_.take(type, std::move(shape)); });
  }

  static std::vector<int64_t> lengths(const QuantizeJob& job) {
    std::vector<int64_t> all;
    for (const auto& sequence : job.calibration.sequences) all.push_back(static_cast<int64_t>(sequence.size()));
    return all;
  }
  static int64_t sampled(const QuantizeJob& job) {
    return std::min(job.options.sample_rows, job.calibration.num_tokens());
  }

  void pass_layer(int index) {
    pass_.run_layer(weights_.take(index), nullptr, phases_);
    if (const TensorSet* files = job_.base->stored()) files->release_pages();  // finish_layer does so for others
    look_at_memory();
  }

  void run_layer(int index, const std::function<void(const std::string&)>& on_step) {
    const std::string name = "layer " + std::to_string(index) + ": ";
    const CudaStoredLayer& layer = weights_.take(index);
    kv_.begin_layer(layer.attention_output.half);
    pass_.run_layer(layer, &kv_, phases_);
    kv_.start_shaping();
    std::vector<LayerResult> results = begin_results(layer, index);
    for (const Group& group : groups()) {
      stop_if_interrupted("quantization goes on after the last finished layer");
      on_step(name + std::string(to_string(group.roles.front())));
      if (!run_.quantizes()) continue;
      for (size_t i = 0; i < run_.outputs(); ++i)
        if (run_.recipe(i).weights != WeightFormat::fp16) quantize(group, layer, index, i, results[i]);
    }
    LayerKv kv = kv_.finish();
    run_.finish_layer(index, std::move(results), std::move(kv));
    look_at_memory();
  }

  void report(GpuQuantizeReport& to) const {
    to.peak_gpu_bytes = peak_bytes_;
    to.peak_host_anonymous_bytes = peak_host_bytes_;
    to.phases = {{"read", weights_.read_seconds()},
                 {"upload", weights_.upload_seconds()},
                 {"wait_for_layers", weights_.wait_seconds()},
                 {"forward", phases_.seconds(CudaPhase::forward)},
                 {"statistics", phases_.seconds(CudaPhase::statistics)},
                 {"kv", phases_.seconds(CudaPhase::kv)},
                 {"search", group_seconds_ - rounding_seconds()},
                 {"rounding", rounding_seconds()}};
    to.read_bytes = static_cast<double>(weights_.read_bytes());
    const ModelTable& table = job_.base->table();
    const auto rows = static_cast<double>(job_.calibration.num_tokens());
    to.forward_flop = 2 * rows * static_cast<double>(table.shape.linear_params());
    if (!run_.wants_gram()) return;
    for (int layer = 0; layer < table.shape.layers; ++layer)
      for (const LinearSpec* spec : table.layer_linears(layer)) {
        const auto n = static_cast<double>(spec->n), k = static_cast<double>(spec->k);
        if (spec->role != LinearRole::up) to.gram_flop += rows * k * k;  // gate's and up's is one
        for (size_t i = 0; i < run_.outputs(); ++i)
          to.rounding_flop += n * k * k + (spec->role != LinearRole::up ? k * k * k / 3 : 0);
      }
  }

 private:
  std::vector<LayerResult> begin_results(const CudaStoredLayer& layer, int index) const {
    LayerResult result;
    result.attention_norm = layer.host_attention_norm;
    result.mlp_norm = layer.host_mlp_norm;
    std::vector<LayerResult> results(run_.outputs(), result);
    for (size_t i = 0; i < results.size(); ++i) {
      if (run_.recipe(i).weights != WeightFormat::fp16) continue;
      for (const LinearSpec* spec : job_.base->table().layer_linears(index))
        results[i].linears[spec->role] = job_.base->linear(*spec);
    }
    return results;
  }

  void quantize(const Group& group, const CudaStoredLayer& layer, int index, size_t output, LayerResult& result) {
    const auto start = Clock::now();
    const LinearSpec& spec = job_.base->table().linear(group.roles.front(), index);
    const CudaStoredLinear& linear = layer.*group.linear;
    CudaGroupProblem problem;
    problem.weight = linear.stored;
    problem.weight_type = weights_.stored_type();
    problem.half_weight = linear.half;
    problem.rows = linear.rows;
    problem.n = linear.n;
    problem.k = linear.k;
    problem.input = pass_.activation(group.input);
    problem.foldable = group.norm != nullptr && spec.producer_norm.has_value();
    problem.name = "input of " + spec.calibration_group;
    if (run_.folds_everything(output) && spec.role == LinearRole::attention_output)
      problem.shared_scales = shared_output_scales(job_.base->table().shape);
    result.take(group.roles, quantizer_->quantize(problem, run_.recipe(output), run_.spec(output)),
                group.norm ? &(result.*group.norm) : nullptr, spec.calibration_group);
    const double seconds = seconds_since(start);
    result.seconds += seconds;
    group_seconds_ += seconds;
  }

  double rounding_seconds() const { return quantizer_ ? quantizer_->rounding_seconds() : 0; }

  void look_at_memory() {
    size_t free_bytes = 0, total_bytes = 0;
    QG_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes));
    peak_bytes_ = std::max(peak_bytes_, static_cast<int64_t>(total_bytes - free_bytes));
    peak_host_bytes_ = std::max(peak_host_bytes_, anonymous_rss_bytes());
  }

  const QuantizeJob& job_;
  QuantizeRun& run_;
  DeviceCapabilities device_;
  Stream stream_;
  CublasLt blas_;
  CudaQueue queue_;
  CudaPhases phases_;
  CudaLayerStream weights_;
  CudaCalibrationPass pass_;
  CudaKvCollector kv_;
  PinnedPool pool_;
  std::unique_ptr<CudaGroupQuantizer> quantizer_;
  double group_seconds_ = 0;
  int64_t peak_bytes_ = 0, peak_host_bytes_ = 0;
};

GpuBudget budget_of(const QuantizeJob& job, const GpuQuantizeOptions& options) {
  size_t free_bytes = 0, total_bytes = 0;
  QG_CUDA(cudaSetDevice(options.device));
  QG_CUDA(cudaMemGetInfo(&free_bytes, &total_bytes));
  GpuBudgetRequest request;
  request.shape = job.base->table().shape;
  request.weight_type = job.base->dtype();
  request.lengths = GpuQuantization::lengths(job);
  request.sampled = GpuQuantization::sampled(job);
  request.feedback = std::any_of(job.outputs.begin(), job.outputs.end(), [](const QuantizeOutput& o) {
    return o.recipe.weights != WeightFormat::fp16 && o.recipe.error_feedback;
  });
  request.quantizes = std::any_of(job.outputs.begin(), job.outputs.end(),
                                  [](const QuantizeOutput& o) { return o.recipe.weights != WeightFormat::fp16; });
  request.memory_bytes = static_cast<int64_t>(free_bytes);
  if (options.memory_bytes > 0) request.memory_bytes = std::min(request.memory_bytes, options.memory_bytes);
  return plan_gpu_budget(request);
}

}  // namespace

GpuQuantizeReport quantize_on_gpu(const QuantizeJob& job, const GpuQuantizeOptions& options,
                                  const std::function<void(const std::string&)>& on_step) {
  require_sixteen_bits(job);
  const auto start = Clock::now();
  check_finite_layer(*job.base, -1);
  const double check_seconds = seconds_since(start);
  if (const TensorSet* files = job.base->stored()) files->release_pages();
  GpuQuantizeReport report;
  report.budget = budget_of(job, options);
  info("quantize on GPU {}: {}", options.device, report.budget.text());
  QuantizeRun run(job, "cuda");
  const int layers = static_cast<int>(job.base->table().shape.layers), finished = run.finished_layers();
  report.restored_layers = finished;
  if (finished > 0) info("going on after layer {} of {}", finished, layers);
  for (int i = 0; i < finished; ++i) run.restore_layer(i);
  if (finished < layers) {
    GpuQuantization work(job, options, run, report.budget);
    for (int i = 0; i < layers; ++i) {
      if (i >= finished) {
        work.run_layer(i, on_step);
        continue;
      }
      for (int64_t s = 0; s < kQuantizeSteps; ++s) on_step("layer " + std::to_string(i) + ": done before");
      work.pass_layer(i);
    }
    work.report(report);
  }
  report.outputs = run.finish();
  report.phases.emplace_back("check", check_seconds);
  report.phases.emplace_back("write", run.write_seconds());
  report.phases.emplace_back("wait_for_writes", run.write_wait_seconds());
  return report;
}

}  // namespace qg
