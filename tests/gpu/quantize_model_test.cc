// A small model quantized on the GPU from folder to folder, against the CPU: how good the checkpoints are, that a run
// that was stopped goes on to the same bytes, that a card without the memory is refused.
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <fstream>
#include <numeric>

#include "checkpoint/safetensors.h"
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

  // The last element of a 16-bit tensor of the base becomes these bits.
  void spoil(const std::string& name, uint16_t bits) {
    const fs::path path = folder_ / "base/model.safetensors";
    uint64_t end = 0;
    {
      const SafetensorsFile file(path);
      const StoredTensor* stored = file.find(name);
      ASSERT_NE(stored, nullptr) << name;
      end = static_cast<uint64_t>(stored->offset) + static_cast<uint64_t>(stored->bytes);
    }
    base_.reset();
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(static_cast<std::streamoff>(end - sizeof bits));
    file.write(reinterpret_cast<const char*>(&bits), sizeof bits);
    file.close();
    base_ = open_model(folder_ / "base");
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

std::string error_of(const std::function<void()>& act) {
  try {
    act();
  } catch (const Error& e) {
    return e.what();
  }
  return "nothing was refused";
}

// How far the KL divergence of two right quantizations of this model may lie apart. Searches and feedback carry last
// bits of the calibration's sums on, so the definition alone spreads it: the CPU's job with its calibration sequences
// in nine orders (the same sums in other last bits, other tokens in the sample) gave log KL with standard deviations of
// .003 to .038 (2 dtypes, 3 formats, 2 KV formats; the largest is FP8's). Two draws of the largest, six deviations:
// .32. Whether codes are right is not for this test to say, but for QuantizeGroup; this one sees weights, folds and
// scales go to the wrong places.
const double kKlMargin = 6 * std::sqrt(2.0) * 0.038;
constexpr double kErrorMargin = 0.02;  // of the mean error on the sample, the same tokens for both
// The same where an exponent of the search may fall the other way: the spread of those nine was .003 to .019.
const double kSearchMargin = 6 * std::sqrt(2.0) * 0.019;

// Two logarithms that differ by at most `margin`; 0 is as good as 0.
void expect_same(double ours, double theirs, double margin, const std::string& what) {
  if (ours == 0 && theirs == 0) return;
  EXPECT_LT(std::fabs(std::log(ours / theirs)), margin) << what << ": " << ours << " against " << theirs;
}

TEST_F(QuantizeModel, IsAsGoodAsTheCpus) {
  for (const DType dtype : {DType::f16, DType::bf16, DType::f32}) {
    make_base(dtype);
    const std::vector<QuantizeReport> cpu = quantize(job("-cpu"), ignore);
    const GpuQuantizeReport gpu = quantize_on_gpu(job("-gpu"), {}, ignore);
    for (size_t i = 0; i < cpu.size(); ++i)
      expect_same(gpu.outputs[i].mean_relative_error, cpu[i].mean_relative_error, kErrorMargin, "error");
    EXPECT_EQ(hash_of("fp16-gpu"), hash_of("fp16-cpu"));  // nothing is rounded in another order there
    for (const char* format : {"fp16", "fp8", "int4_awq", "int8_sq"})
      for (const KvFormat kv : {KvFormat::fp16, KvFormat::fp8}) {
        const std::string name = format;
        const double ours = kl_of(folder_ / (name + "-gpu"), kv), theirs = kl_of(folder_ / (name + "-cpu"), kv);
        std::printf("%s %s, KV %s: KL %.6f against %.6f\n", std::string(to_string(dtype)).c_str(), format,
                    std::string(to_string(kv)).c_str(), ours, theirs);
        expect_same(ours, theirs, kKlMargin, format);
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
    expect_same(cut.outputs[i].mean_relative_error, whole.outputs[i].mean_relative_error, kErrorMargin, "error");
}

// Where a layout has no place for a scale of a layer's input, and static int8.
TEST_F(QuantizeModel, MakesTheOtherLayoutsAsTheCpuDoes) {
  make_base(DType::bf16);
  Recipe zeros = default_recipe(WeightFormat::int4_awq), still = default_recipe(WeightFormat::int8_sq);
  zeros.zero_points = true;
  still.activations = ActivationScaling::static_tensor;
  const std::pair<Recipe, Layout> made[] = {{default_recipe(WeightFormat::int4_awq), Layout::modelopt},
                                            {default_recipe(WeightFormat::int4_awq), Layout::compressed_tensors},
                                            {zeros, Layout::compressed_tensors},
                                            {zeros, Layout::autoawq},
                                            {default_recipe(WeightFormat::int8_sq), Layout::compressed_tensors},
                                            {still, Layout::modelopt},
                                            {still, Layout::trtllm}};
  QuantizeJob on_cpu = job("-cpu"), on_gpu = on_cpu;
  on_cpu.outputs.clear();
  on_gpu.outputs.clear();
  for (const auto& [recipe, layout] : made) {
    const std::string name = std::to_string(on_cpu.outputs.size()) + "-" + std::string(to_string(layout));
    on_cpu.outputs.push_back({recipe, folder_ / (name + "-cpu"), layout, {}});
    on_gpu.outputs.push_back({recipe, folder_ / (name + "-gpu"), layout, {}});
  }
  const std::vector<QuantizeReport> cpu = quantize(on_cpu, ignore);
  const GpuQuantizeReport gpu = quantize_on_gpu(on_gpu, {}, ignore);
  for (size_t i = 0; i < cpu.size(); ++i) {
    const fs::path ours = on_gpu.outputs[i].out, theirs = on_cpu.outputs[i].out;
    expect_same(gpu.outputs[i].mean_relative_error, cpu[i].mean_relative_error, kSearchMargin, ours.string());
    expect_same(kl_of(ours, KvFormat::fp16), kl_of(theirs, KvFormat::fp16), kKlMargin, ours.string());
    EXPECT_EQ(open_model(ours)->stored()->names(), open_model(theirs)->stored()->names()) << ours;
  }
}

TEST_F(QuantizeModel, RefusesBrokenWeightsAsTheCpuDoes) {
  for (const DType dtype : {DType::f16, DType::bf16})
    for (const bool infinite : {false, true})
      for (const char* name : {"model.layers.1.self_attn.k_proj.weight", "model.layers.2.mlp.down_proj.weight",
                               "model.layers.0.input_layernorm.weight", "model.embed_tokens.weight"}) {
        make_base(dtype);
        spoil(name, static_cast<uint16_t>((dtype == DType::f16 ? 0x7c00 : 0x7f80) + (infinite ? 0 : 0x20)));
        const auto few = [&](const char* suffix) {
          QuantizeJob j = job(suffix);
          j.outputs.resize(2);
          return j;
        };
        const std::string theirs = error_of([&] { quantize(few("-cpu"), ignore); });
        EXPECT_NE(theirs.find(name), std::string::npos) << theirs;
        EXPECT_EQ(error_of([&] { quantize_on_gpu(few("-gpu"), {}, ignore); }), theirs);
        EXPECT_FALSE(fs::exists(folder_ / "fp8-gpu"));
      }
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
