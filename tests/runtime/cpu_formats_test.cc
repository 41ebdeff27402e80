// Every weight format and KV format through the executor, on a tiny model rounded without any care.
#include <gtest/gtest.h>

#include "runtime/cpu_executor.h"
#include "tests/runtime/cpu_models.h"
#include "tests/runtime/rounded_checkpoint.h"

namespace qg {
namespace {

using namespace test;

struct FormatCase {
  const char* name;
  WeightFormat weights;
  ActivationScaling activations;
  ComputePath path;
  const char* kernel;
  double error;  // of the logits, relative to their largest; seen: about half
};

const FormatCase kCases[] = {
    {"fp16", WeightFormat::fp16, ActivationScaling::none, ComputePath::w16a16, "cpu_reference_w16a16", 0.002},
    {"fp8_dynamic", WeightFormat::fp8, ActivationScaling::dynamic_token, ComputePath::w8a8_fp8,
     "cpu_reference_w8a8_fp8_dynamic", 0.3},
    {"fp8_static", WeightFormat::fp8, ActivationScaling::static_tensor, ComputePath::w8a8_fp8,
     "cpu_reference_w8a8_fp8_static", 0.3},
    {"fp8_weights_only", WeightFormat::fp8, ActivationScaling::none, ComputePath::w8a16_fp8, "cpu_reference_w8a16_fp8",
     0.25},
    {"int8", WeightFormat::int8_sq, ActivationScaling::dynamic_token, ComputePath::w8a8_int8,
     "cpu_reference_w8a8_int8_dynamic", 0.05},
    {"int4", WeightFormat::int4_awq, ActivationScaling::none, ComputePath::w4a16, "cpu_reference_w4a16_g32", 0.8},
};

class Formats : public testing::TestWithParam<FormatCase> {};
INSTANTIATE_TEST_SUITE_P(All, Formats, testing::ValuesIn(kCases),
                         [](const auto& tested) { return std::string(tested.param.name); });

constexpr const char* kModel = "llama-gqa4-llama3rope-bf16";

std::unique_ptr<Executor> executor_of(const FormatCase& c, KvFormat kv) {
  ExecutorOptions options;
  options.kv = kv;
  options.num_pages = 8;
  std::shared_ptr<const Checkpoint> base = open_model(golden_models() / kModel);
  return make_cpu_executor(std::make_shared<RoundedCheckpoint>(base, c.weights, c.activations), options);
}

TEST_P(Formats, LogitsAreNearTheUnquantizedOnes) {
  const Golden golden = read_golden(kModel);
  const auto executor = executor_of(GetParam(), KvFormat::fp16);
  const double error = relative_error(run_chunked(*executor, golden.tokens, 1000), golden.logits);
  EXPECT_LT(error, GetParam().error);
  if (GetParam().weights != WeightFormat::fp16) {
    EXPECT_GT(error, 0.001) << "nothing was quantized";
  }
}

TEST_P(Formats, TellsThePathThatRan) {
  const auto executor = executor_of(GetParam(), KvFormat::int8);
  run_chunked(*executor, {1, 2, 3}, 3);
  EXPECT_EQ(executor->compute_path(), GetParam().path);
  EXPECT_EQ(executor->kernels(), (std::vector<std::string>{"cpu_reference_attention_kv_int8", GetParam().kernel}));
}

TEST_P(Formats, CutUpDifferentlyGivesTheSameBits) {
  const Golden golden = read_golden(kModel);
  for (const KvFormat kv : kKvFormats) {
    const auto executor = executor_of(GetParam(), kv);
    const std::vector<float> whole = run_chunked(*executor, golden.tokens, 1000);
    for (const int64_t chunk : {1, 7, 16}) EXPECT_EQ(run_chunked(*executor, golden.tokens, chunk), whole) << chunk;
  }
}

}  // namespace
}  // namespace qg
