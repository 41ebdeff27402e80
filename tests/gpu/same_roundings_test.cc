// The CUDA executor against cpu_executor end to end where activations are rounded to 8 bits: with the same roundings
// (tests/runtime/same_roundings.h), so that what differs is everything but on which side of a border a value fell.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>

#include "core/json.h"
#include "core/rng.h"
#include "model/open_model.h"
#include "runtime/make_executor.h"
#include "tests/gpu/small_model.h"
#include "tests/runtime/faulty_checkpoint.h"
#include "tests/runtime/forced_run.h"
#include "tokenizer/tokenizer.h"

namespace qg::testing {
namespace {

using namespace qg::test;

struct Rounded {
  const char* name;
  WeightFormat weights;
  ActivationScaling activations;
};
constexpr Rounded kRounded[] = {{"fp8 static", WeightFormat::fp8, ActivationScaling::static_tensor},
                                {"fp8 per token", WeightFormat::fp8, ActivationScaling::dynamic_token},
                                {"int8 static", WeightFormat::int8_sq, ActivationScaling::static_tensor},
                                {"int8 per token", WeightFormat::int8_sq, ActivationScaling::dynamic_token}};

std::shared_ptr<const Checkpoint> rounded_model(const Rounded& r) {
  Model m;
  m.weights = r.weights, m.activations = r.activations;
  m.layers = 4;
  return make_model(m);
}

// Prefill, decoding, a chunk over cached pages, decoding: kernels for many rows and for few.
ForcedText random_text() {
  ForcedText text;
  text.steps = {200, 1, 1, 60, 1, 20, 1};
  Rng rng(21);
  for (int i = 0; i < 284; ++i) text.tokens.push_back(static_cast<int32_t>(rng.next_below(1000)));
  return text;
}

OtherRun run_on_gpu(const std::shared_ptr<const Checkpoint>& checkpoint, const ExecutorOptions& options,
                    const ForcedText& text) {
  return run_tapped(*make_executor("cuda", checkpoint, options), text);
}

void print(const std::string& name, const ForcedResult& result) {
  fmt::print("{}: {}\n", name, result.line());
  for (const auto& [tap, report] : result.reports) fmt::print("  {}: {}\n", tap, describe(report));
  std::fflush(stdout);
}

TEST(SameRoundings, SmallModelsAgreeCodeByCode) {
  for (const Rounded& r : kRounded) {
    const auto checkpoint = rounded_model(r);
    const ExecutorOptions options = options_for(KvFormat::fp16);
    const OtherRun gpu = run_on_gpu(checkpoint, options, random_text());
    ForcedResult result;
    compare_forced(checkpoint, options, random_text(), gpu, true, result);
    print(r.name, result);
    for (const std::string& problem : result.total().problems) ADD_FAILURE() << r.name << ": " << problem;
    EXPECT_EQ(result.total().codes, 284 * 4 * (256 + 512 + 256 + 512)) << r.name;
    EXPECT_LT(result.total().differed, result.total().codes / 50) << r.name;
    // Where one kernel does gate and up and gates them, nobody sees what was gated.
    EXPECT_GE(result.total().outputs, 284 * 4 * (768 + 256 + 256)) << r.name;
    EXPECT_LT(result.forced.mean_kl(), 1e-4) << r.name;
  }
}

TEST(SameRoundings, FindSmallFaultsOfOnePlace) {
  for (const Rounded& r : kRounded) {
    const auto checkpoint = rounded_model(r);
    const ExecutorOptions options = options_for(KvFormat::fp16);
    const OtherRun gpu = run_on_gpu(checkpoint, options, random_text());
    int number = 0;
    for (const Fault& fault : faults()) {
      ++number;
      if (fault.static_only && r.activations != ActivationScaling::static_tensor) continue;
      const auto faulty = std::make_shared<FaultyCheckpoint>(checkpoint, fault.linear, fault.tensor);
      ForcedResult result;
      compare_forced(faulty, options, random_text(), gpu, false, result);
      fmt::print("{}, {} ({}): {} codes outside, KL {:.1e}\n", r.name, fault.name, number, result.total().outside,
                 result.forced.mean_kl());
      EXPECT_GT(result.total().outside, 0) << r.name << ": " << fault.name << " (" << number << ")";
    }
  }
}

int64_t number_of(const char* variable, int64_t otherwise) {
  const char* text = std::getenv(variable);
  return text ? std::atoll(text) : otherwise;
}

// Checkpoints in the folder that QG_SMOLLM2 names, on the text QG_TEXT. QG_WINDOWS, QG_WINDOW: how much of it. There
// are as many of these tests as there are checkpoints; none without the variables. Each prints one JSON object.
std::vector<std::filesystem::path> real_models() {
  std::vector<std::filesystem::path> models;
  if (const char* folder = std::getenv("QG_SMOLLM2"))
    for (const auto& entry : std::filesystem::directory_iterator(folder))
      if (std::filesystem::exists(entry.path() / "config.json")) models.push_back(entry.path());
  std::sort(models.begin(), models.end());
  return models;
}

class SameRoundingsOf : public ::testing::TestWithParam<std::filesystem::path> {};

TEST_P(SameRoundingsOf, RealModelAgreesCodeByCode) {
  const char* path = std::getenv("QG_TEXT");
  ASSERT_NE(path, nullptr) << "QG_TEXT must name a text";
  const int64_t windows = number_of("QG_WINDOWS", 2), window = number_of("QG_WINDOW", 1024);
  const std::shared_ptr<const Checkpoint> checkpoint = open_model(GetParam());
  const EvalText text = cut_windows(Tokenizer::from_folder(GetParam()), path, {windows, window});
  ExecutorOptions options = options_for(KvFormat::fp16);
  options.max_rows = window;
  const auto gpu = make_executor("cuda", checkpoint, options);
  ForcedResult result;
  for (const std::vector<int32_t>& tokens : text.windows) {
    // All but the last tokens at once, these one by one.
    const ForcedText forced{tokens, {static_cast<int64_t>(tokens.size()) - 4, 1, 1, 1, 1}};
    compare_forced(checkpoint, options, forced, run_tapped(*gpu, forced), true, result);
  }
  const RoundingReport total = result.total();
  print(GetParam().filename(), result);
  const auto figures = [](const LogitDistance& d) {
    return Json{{"kld_mean", d.mean_kl()}, {"top1", d.mean_top1()}, {"ppl_ratio", d.perplexity_ratio()}};
  };
  fmt::print("{}\n", Json{{"checkpoint", GetParam().filename().string()},
                          {"compute_path", std::string(to_string(gpu->compute_path()))},
                          {"windows", windows},
                          {"window", window},
                          {"text_sha256", text.hash},
                          {"same_roundings", figures(result.forced)},
                          {"free", figures(result.free)},
                          {"cpu_to_itself_nudged_by_2^-22", figures(result.itself)},
                          {"codes", total.codes},
                          {"codes_that_differed", total.differed},
                          {"by_more_than_one", total.by_more},
                          {"codes_expected_to_differ", total.expected},
                          {"codes_that_could_differ", total.could_differ},
                          {"codes_outside_tolerance", total.outside},
                          {"greatest_share_of_tolerance", total.worst},
                          {"greatest_difference_of_a_scale", total.scale_off},
                          {"outputs", total.outputs},
                          {"greatest_share_of_output_tolerance", total.worst_output}}
                         .dump());
  for (const std::string& problem : total.problems) ADD_FAILURE() << problem;
  // What is asked of FP16, which rounds nothing to codes.
  EXPECT_LE(result.forced.mean_kl(), 1e-4);
  EXPECT_GE(result.forced.mean_top1(), 0.99);
  EXPECT_NEAR(result.forced.perplexity_ratio(), 1, 0.001);
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(SameRoundingsOf);
INSTANTIATE_TEST_SUITE_P(Models, SameRoundingsOf, ::testing::ValuesIn(real_models()), [](const auto& test) {
  std::string name = test.param.filename();
  for (char& c : name)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '_';
  return name;
});

}  // namespace
}  // namespace qg::testing
