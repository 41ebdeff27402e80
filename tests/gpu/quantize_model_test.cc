// A small model quantized on the GPU from folder to folder, against the CPU: how good the checkpoints are, that a run
// that was stopped goes on to the same bytes, that a card without the memory is refused.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <numeric>

#include "checkpoint/synthetic.h"
#include "core/error.h"
#include "core/rng.h"
#include "eval/fidelity.h"
#include "model/architecture.h"
#include "model/open_model.h"
#include "quantize/gpu_quantize.h"
#include "runtime/cpu_executor.h"

namespace qg::testing {
namespace {

namespace fs = std::filesystem;

class QuantizeModel : public ::testing::Test {
 protected:
  void make_base(DType dtype) {
    folder_ = fs::temp_directory_path() / ("quantgrid-gpu-" + std::to_string(getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    ModelShape shape;
    shape.family = "llama";
    shape.layers = 3;
    shape.hidden = 256;
    shape.heads = 4;
    shape.kv_heads = 2;
    shape.head_dim = 64;
    shape.ffn = 448;
    shape.vocab = 300;
    shape.max_position = 512;
    SyntheticOptions options;
    options.seed = 3;
    options.outliers = 4;
    options.dtype = dtype;
    write_synthetic_model(make_model_table(shape), hf_rules_of_family("llama"), options, folder_ / "base");
    base_ = open_model(folder_ / "base");
    calibration_.sequences.clear();
    text_.windows.clear();
    for (uint64_t s = 0; s < 9; ++s) {
      std::vector<int32_t> sequence;
      for (uint64_t i = 0; i < 70 + s % 3; ++i) sequence.push_back(static_cast<int32_t>(Rng(7, s).below(i, 256)));
      calibration_.sequences.push_back(sequence);
      for (int32_t& t : sequence) t = (t * 5 + 3) % 256;
      text_.windows.push_back(sequence);
    }
  }
  void TearDown() override { fs::remove_all(folder_); }

  QuantizeJob job(const std::string& suffix) const {
    QuantizeJob j;
    j.base = base_.get();
    j.architecture = "LlamaForCausalLM";
    j.calibration = calibration_;
    j.options.sample_rows = 200;
    for (const WeightFormat weights :
         {WeightFormat::fp16, WeightFormat::fp8, WeightFormat::int4_awq, WeightFormat::int8_sq})
      j.outputs.push_back(
          {default_recipe(weights), folder_ / (std::string(to_string(weights)) + suffix), Layout::trtllm, {}});
    return j;
  }

  double kl_of(const fs::path& model, KvFormat kv) const {
    ExecutorOptions options;
    options.num_pages = 20;
    const auto base = make_cpu_executor(base_, options);
    options.kv = kv;
    const auto candidate = make_cpu_executor(open_model(model), options);
    Executor* candidates[] = {candidate.get()};
    const FidelityScores scores = score_fidelity(*base, candidates, text_, [](int64_t) {});
    const auto& kld = scores.candidates[0].kld;
    return std::accumulate(kld.begin(), kld.end(), 0.0) / static_cast<double>(kld.size());
  }
  std::string hash_of(const std::string& name) const { return open_model(folder_ / name)->weights_hash(); }

  fs::path folder_;
  std::shared_ptr<const Checkpoint> base_;
  CalibrationText calibration_;
  EvalText text_{"random", "", {}};
};

void ignore(const std::string&) {}

TEST_F(QuantizeModel, IsAsGoodAsTheCpus) {
  for (const DType dtype : {DType::f16, DType::bf16, DType::f32}) {
    make_base(dtype);
    const std::vector<QuantizeReport> cpu = quantize(job("-cpu"), ignore);
    const GpuQuantizeReport gpu = quantize_on_gpu(job("-gpu"), {}, ignore);
    for (size_t i = 0; i < cpu.size(); ++i)
      EXPECT_NEAR(gpu.outputs[i].mean_relative_error, cpu[i].mean_relative_error,
                  0.02 * cpu[i].mean_relative_error + 1e-9);
    for (const char* format : {"fp16", "fp8", "int4_awq", "int8_sq"})
      for (const KvFormat kv : {KvFormat::fp16, KvFormat::fp8}) {
        const std::string name = format;
        const double ours = kl_of(folder_ / (name + "-gpu"), kv), theirs = kl_of(folder_ / (name + "-cpu"), kv);
        std::printf("%s %s, KV %s: KL %.6f against %.6f\n", std::string(to_string(dtype)).c_str(), format,
                    std::string(to_string(kv)).c_str(), ours, theirs);
        // Of two roundings of so small a model neither is the better one: feedback carries a last bit far.
        EXPECT_LT(ours, 1.3 * theirs + 2e-6) << format;
        EXPECT_GT(ours, theirs / 1.3 - 2e-6) << format;
      }
    EXPECT_GT(gpu.peak_gpu_bytes, 0);
  }
}

TEST_F(QuantizeModel, AStoppedJobGoesOnToTheSameBytes) {
  make_base(DType::f16);
  quantize_on_gpu(job("-whole"), {}, ignore);
  int steps = 0;
  EXPECT_THROW(quantize_on_gpu(job("-cut"), {},
                               [&](const std::string&) {
                                 if (++steps > 2 * kQuantizeSteps) throw Error("stopped");
                               }),
               Error);
  EXPECT_FALSE(fs::exists(folder_ / "fp8-cut"));
  EXPECT_EQ(quantize_on_gpu(job("-cut"), {}, ignore).restored_layers, 2);
  for (const char* format : {"fp16", "fp8", "int4_awq", "int8_sq"})
    EXPECT_EQ(hash_of(std::string(format) + "-whole"), hash_of(std::string(format) + "-cut")) << format;
}

TEST_F(QuantizeModel, ChunksDoNotChangeWhatIsLearned) {
  make_base(DType::f16);
  const GpuQuantizeReport whole = quantize_on_gpu(job("-whole"), {}, ignore);
  GpuQuantizeOptions tight;
  tight.memory_bytes = whole.budget.total_bytes() - 1;
  const GpuQuantizeReport cut = quantize_on_gpu(job("-cut"), tight, ignore);
  EXPECT_LT(cut.budget.chunk_tokens, whole.budget.chunk_tokens);
  for (size_t i = 0; i < whole.outputs.size(); ++i)
    EXPECT_NEAR(cut.outputs[i].mean_relative_error, whole.outputs[i].mean_relative_error,
                0.02 * whole.outputs[i].mean_relative_error + 1e-9);
}

TEST_F(QuantizeModel, RefusesACardWithoutTheMemory) {
  make_base(DType::f16);
  GpuQuantizeOptions small;
  small.memory_bytes = 100'000'000;
  try {
    quantize_on_gpu(job("-small"), small, ignore);
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::cannot_here);
    EXPECT_NE(std::string(e.what()).find("residual stream"), std::string::npos) << e.what();
  }
  EXPECT_FALSE(fs::exists(folder_ / "fp8-small"));
}

}  // namespace
}  // namespace qg::testing
