// A model computed in BF16 against cpu_executor, which computes in float, on the same checkpoint.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "runtime/engine.h"
#include "runtime/make_executor.h"
#include "tests/gpu/model_logits.h"
#include "tests/gpu/small_model.h"

namespace qg::testing {
namespace {

CudaExecutorOptions in_bf16(std::optional<KernelFamily> family = {}) {
  CudaExecutorOptions cuda;
  cuda.dtype = DType::bf16;
  cuda.family = family;
  return cuda;
}

// FP16 rounds every activation to 2^-11 and stays within 3e-3 (executor_test.cc); BF16 to 2^-8, eight times as far.
// Where K and V become codes, a difference d of the two sides becomes sqrt(d * step), since a share d / step of the
// codes moves by a whole step: sqrt(8) times as far as FP16's 2e-2.
double tolerance(KvFormat kv) {
  return kv == KvFormat::fp16 ? 8 * 3e-3 : std::sqrt(8.0) * 2e-2;
}

// Another checkpoint whose `up` rows are `factor` times as large: a power of two, so that nothing else changes.
class LargeActivations : public Checkpoint {
 public:
  LargeActivations(std::shared_ptr<const Checkpoint> base, float factor) : base_(std::move(base)), factor_(factor) {}
  Layout layout() const override { return base_->layout(); }
  const ModelTable& table() const override { return base_->table(); }
  const QuantSpec& quant() const override { return base_->quant(); }
  DType dtype() const override { return base_->dtype(); }
  Tensor tensor(const TensorSpec& spec) const override { return base_->tensor(spec); }
  const KvScales& kv_scales() const override { return base_->kv_scales(); }
  const std::optional<Lineage>& lineage() const override { return base_->lineage(); }
  const std::filesystem::path& folder() const override { return base_->folder(); }
  int64_t stored_bytes() const override { return base_->stored_bytes(); }
  std::string weights_hash() const override { return base_->weights_hash(); }
  LinearWeights linear(const LinearSpec& spec) const override {
    LinearWeights w = base_->linear(spec);
    if (spec.role != LinearRole::up) return w;
    std::vector<float> values = to_f32(w.weight);
    for (float& value : values) value *= factor_;
    w.weight = tensor_from_f32(values, w.weight.shape, w.weight.dtype);
    return w;
  }

 private:
  std::shared_ptr<const Checkpoint> base_;
  float factor_;
};

void compare(const std::shared_ptr<const Checkpoint>& checkpoint, KvFormat kv, const CudaExecutorOptions& cuda,
             const std::string& what) {
  const auto cpu = make_executor("cpu", checkpoint, options_for(kv));
  const auto gpu = make_executor("cuda", checkpoint, options_for(kv), cuda);
  const auto sequences = random_sequences({1, 2, 65, 130, 300}, checkpoint->table().shape.vocab);
  const double error = relative_error(logits_of(*gpu, sequences, 100), logits_of(*cpu, sequences, 100));
  std::string names;
  for (const std::string& name : gpu->kernels()) names += " " + name;
  printf("%s kv %s: relative error %.2e;%s\n", what.c_str(), std::string(to_string(kv)).c_str(), error, names.c_str());
  EXPECT_LE(error, tolerance(kv)) << what;
  EXPECT_EQ(gpu->compute_path(), ComputePath::w16a16_bf16);
  for (const std::string& name : gpu->kernels()) {
    const bool linear = name.find("w16a16") != std::string::npos;
    EXPECT_EQ(linear, name.find("w16a16_bf16") != std::string::npos) << name;
  }
  EXPECT_NE(names.find("w16a16_bf16"), std::string::npos) << names;
}

TEST(CudaExecutorBf16, MatchesTheCpuInEveryKvFormatAndFamily) {
  for (const DType stored : {DType::bf16, DType::f16})
    for (const KernelFamily family : {KernelFamily::sm80, KernelFamily::sm90a})
      for (const KvFormat kv : kKvFormats) {
        Model m;
        m.dtype = stored;
        compare(make_model(m), kv, in_bf16(family),
                std::string(to_string(stored)) + " on " + std::string(to_string(family)));
      }
}

TEST(CudaExecutorBf16, HeadSizesGroupsTiesAndWindows) {
  for (const int64_t head_dim : {64, 128})
    for (const int64_t group : {1, 3, 4, 8}) {
      Model m;
      m.dtype = DType::bf16;
      m.kv_heads = 2, m.heads = 2 * group, m.head_dim = head_dim;
      m.tied = group == 3;
      if (group == 4) m.window = 64;
      compare(make_model(m), group == 8 ? KvFormat::int8 : KvFormat::fp16, in_bf16(), "heads");
    }
}

// Gated activations and a residual stream beyond 65504: FP16 has no number for them.
TEST(CudaExecutorBf16, ComputesActivationsThatOverflowFp16) {
  Model m;
  m.dtype = DType::bf16;
  const auto checkpoint = std::make_shared<LargeActivations>(make_model(m), 0x1p17f);
  const auto tokens = random_sequences({100}, m.vocab).front();
  const auto cpu = make_executor("cpu", checkpoint, options_for(KvFormat::fp16));
  float largest_act = 0, largest_out = 0;
  for (const auto& [name, values] : taps_of(*cpu, tokens))
    for (const float value : values) {
      if (name.ends_with(".mlp_act")) largest_act = std::max(largest_act, std::fabs(value));
      if (name.ends_with(".out")) largest_out = std::max(largest_out, std::fabs(value));
    }
  printf("largest gated activation %.3g, of the residual stream %.3g\n", static_cast<double>(largest_act),
         static_cast<double>(largest_out));
  ASSERT_GT(largest_act, 1e5f);
  ASSERT_GT(largest_out, 1e5f);
  const auto half = make_executor("cuda", checkpoint, options_for(KvFormat::fp16));
  const std::vector<float> beyond = logits_of(*half, {tokens}, 100).front();
  EXPECT_FALSE(std::all_of(beyond.begin(), beyond.end(), [](float x) { return std::isfinite(x); }))
      << "FP16 is not beyond its range: this test shows nothing";
  for (const KernelFamily family : {KernelFamily::sm80, KernelFamily::sm90a})
    compare(checkpoint, KvFormat::fp16, in_bf16(family), "large activations");
}

// FP16 refuses such a model when it is loaded.
TEST(CudaExecutorBf16, ComputesWeightsThatOverflowFp16) {
  Model m;
  m.dtype = DType::bf16;
  const auto checkpoint = std::make_shared<LargeActivations>(make_model(m), 0x1p19f);
  EXPECT_THROW(make_executor("cuda", checkpoint, options_for(KvFormat::fp16)), Error);
  compare(checkpoint, KvFormat::fp16, in_bf16(), "large weights");
}

TEST(CudaExecutorBf16, TapsStayCloseLayerByLayer) {
  Model m;
  m.dtype = DType::bf16;
  m.layers = 3;
  const auto checkpoint = make_model(m);
  const auto tokens = random_sequences({200}, m.vocab).front();
  const auto cpu = make_executor("cpu", checkpoint, options_for(KvFormat::fp16));
  const auto gpu = make_executor("cuda", checkpoint, options_for(KvFormat::fp16), in_bf16());
  const Taps want = taps_of(*cpu, tokens), got = taps_of(*gpu, tokens);
  for (const auto& [name, values] : got) {
    if (name.ends_with("qkv") || name.ends_with("gate_up") || name.ends_with("projected")) continue;
    ASSERT_TRUE(want.contains(name)) << name;
    const double error = relative_error({values}, {want.at(name)});
    printf(" %s %.1e", name.c_str(), error);
    EXPECT_LE(error, name == "embedding" ? 0.0 : 2e-2) << name;
  }
  printf("\n");
}

// Greedy tokens of some requests through the engine.
std::vector<int32_t> generate(const std::shared_ptr<const Checkpoint>& checkpoint, bool graphs) {
  EngineOptions options;
  options.max_batch = 12;
  options.max_rows = 256;
  options.prefill_chunk = 64;
  ExecutorOptions executor = options_for(KvFormat::fp16);
  executor.max_rows = options.max_rows;
  executor.max_pieces = options.max_batch;
  CudaExecutorOptions cuda = in_bf16();
  cuda.graphs = graphs;
  Engine engine(make_executor("cuda", checkpoint, executor, cuda), options);
  for (int32_t i = 0; i < 30; ++i) {
    Request request;
    for (int32_t t = 0; t < 5 + 3 * i; ++t) request.prompt.push_back((t * 37 + i) % 1000);
    request.max_tokens = 12;
    request.ignore_stop = true;
    engine.add(request);
  }
  std::map<RequestId, std::vector<int32_t>> replies;
  while (!engine.idle())
    engine.step([&](const TokenEvent& event) {
      if (event.token >= 0) replies[event.request].push_back(event.token);
    });
  std::vector<int32_t> all;
  for (const auto& [id, tokens] : replies) all.insert(all.end(), tokens.begin(), tokens.end());
  return all;
}

TEST(CudaExecutorBf16, GraphsGiveTheSameTokensAsDirectLaunches) {
  const auto checkpoint = make_model({});
  const std::vector<int32_t> with_graphs = generate(checkpoint, true);
  EXPECT_EQ(with_graphs.size(), 360u);
  EXPECT_EQ(with_graphs, generate(checkpoint, false));
  EXPECT_EQ(with_graphs, generate(checkpoint, true)) << "two runs differ";
}

TEST(CudaExecutorBf16, QuantizedWeightsAreRefused) {
  for (const WeightFormat weights : kWeightFormats) {
    if (weights == WeightFormat::fp16) continue;
    Model m;
    m.weights = weights;
    EXPECT_THROW(make_executor("cuda", make_model(m), options_for(KvFormat::fp16), in_bf16()), Error)
        << to_string(weights);
  }
}

}  // namespace
}  // namespace qg::testing
