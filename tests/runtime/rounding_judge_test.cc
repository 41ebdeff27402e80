// What the CPU executor asks about its roundings, and "the same roundings" (same_roundings.h) on the CPU alone: the
// other program is the CPU executor too, with values moved a little before they are rounded.
#include <gtest/gtest.h>

#include "core/rng.h"
#include "tests/gpu/small_model.h"
#include "tests/runtime/cpu_models.h"
#include "tests/runtime/faulty_checkpoint.h"
#include "tests/runtime/forced_run.h"
#include "tests/runtime/nudged_roundings.h"

namespace qg {
namespace {

using namespace test;
using testing::make_model;
using testing::Model;
using testing::options_for;

constexpr double kHalf = 1.0 / 2048;

struct Rounded {
  WeightFormat weights;
  ActivationScaling activations;
};
constexpr Rounded kRounded[] = {{WeightFormat::fp8, ActivationScaling::static_tensor},
                                {WeightFormat::fp8, ActivationScaling::dynamic_token},
                                {WeightFormat::int8_sq, ActivationScaling::static_tensor},
                                {WeightFormat::int8_sq, ActivationScaling::dynamic_token}};

std::shared_ptr<const Checkpoint> small(const Rounded& r) {
  Model m;
  m.weights = r.weights, m.activations = r.activations;
  m.layers = 3;
  return make_model(m);
}

ForcedText some_text() {
  ForcedText text;
  text.steps = {70, 1, 9};
  Rng rng(5);
  for (int i = 0; i < 80; ++i) text.tokens.push_back(static_cast<int32_t>(rng.next_below(1000)));
  return text;
}

std::vector<float> logits_with(const std::shared_ptr<const Checkpoint>& checkpoint, const RoundingJudge& judge) {
  return run_steps(*make_cpu_executor(checkpoint, options_for(KvFormat::fp16), judge), some_text(), {});
}

TEST(RoundingJudge, IsAskedForEveryInputAndChangesNothingByLooking) {
  for (const Rounded& r : kRounded) {
    const auto checkpoint = small(r);
    std::map<std::string, int64_t> rows;
    const std::vector<float> watched = logits_with(checkpoint, [&](const Rounding& rounding) {
      rows[fmt::format("{} {}", rounding.layer, rounding.tap)] += rounding.input.m;
      // What it is shown is a rounding of x: within half a step of the format.
      const RoundedInput& in = rounding.input;
      ASSERT_EQ(in.format, r.weights);
      for (int64_t i = 0; i < in.m; i += 13)
        for (int64_t c = 0; c < in.k; c += 7) {
          const double x = static_cast<double>(in.x[i * in.k + c]), s = static_cast<double>(in.scales[i]);
          const double code = static_cast<double>(in.codes[i * in.stride + c]);
          const double largest = r.weights == WeightFormat::fp8 ? 448 : 127;
          const double step = r.weights == WeightFormat::fp8 ? std::max(std::fabs(code) / 14, 1.0 / 1024) : 0.5001;
          ASSERT_NEAR(std::clamp(x / s, -largest, largest), code, step);
        }
    });
    EXPECT_EQ(watched, logits_with(checkpoint, {}));
    ASSERT_EQ(rows.size(), 12u);
    for (const auto& [place, count] : rows) EXPECT_EQ(count, place.ends_with("mlp_in") ? 160 : 80) << place;
  }
}

TEST(RoundingJudge, IsNotAskedWhereNothingIsRounded) {
  for (const WeightFormat weights : {WeightFormat::fp16, WeightFormat::int4_awq}) {
    Model m;
    m.weights = weights;
    logits_with(make_model(m), [](const Rounding&) { ADD_FAILURE() << "asked"; });
  }
}

TEST(RoundingJudge, ACodeAndAScaleThatItChangesAreSeenDownstream) {
  for (const Rounded& r : kRounded) {
    const auto checkpoint = small(r);
    const std::vector<float> plain = logits_with(checkpoint, {});
    const size_t vocab = 1000, row = 33;
    for (const bool scale : {false, true}) {
      const std::vector<float> changed = logits_with(checkpoint, [&](const Rounding& rounding) {
        if (rounding.layer != 1 || rounding.role != LinearRole::down || rounding.input.m != 70) return;
        if (scale)
          rounding.input.scales[row] *= 2;
        else
          rounding.input.codes[static_cast<int64_t>(row) * rounding.input.stride + 5] += 32;
      });
      // Rows before it know nothing of it; it and rows after it, through keys and values, do.
      const auto part = [&](const std::vector<float>& x, size_t from, size_t to) {
        return std::vector<float>(x.begin() + static_cast<int64_t>(from * vocab),
                                  x.begin() + static_cast<int64_t>(to * vocab));
      };
      EXPECT_EQ(part(changed, 0, row), part(plain, 0, row));
      EXPECT_NE(part(changed, row, row + 1), part(plain, row, row + 1));
      EXPECT_NE(part(changed, row + 1, row + 2), part(plain, row + 1, row + 2));
    }
  }
}

// What nudged_roundings makes of the text, told as the GPU's taps tell it. alter: may change codes last.
OtherRun run_other(const std::shared_ptr<const Checkpoint>& checkpoint, double move, const RoundingJudge& alter = {}) {
  OtherRun other;
  const bool per_token = checkpoint->quant().activations == ActivationScaling::dynamic_token;
  const RoundingJudge nudged = nudged_roundings(move, per_token);
  const auto judge = [&](const Rounding& r) {
    nudged(r);
    if (alter) alter(r);
    const RoundedInput& in = r.input;
    std::vector<float>& told = other.steps.back()[fmt::format("layers.{}.{}", r.layer, r.tap)];
    told.clear();
    for (int64_t i = 0; i < in.m; ++i)
      for (int64_t c = 0; c < in.k; ++c)
        told.push_back(in.codes[i * in.stride + c] * in.scales[i] / (in.prequant ? in.prequant[c] : 1.0f));
  };
  const auto executor = make_cpu_executor(checkpoint, options_for(KvFormat::fp16), judge);
  other.logits = run_steps(*executor, some_text(), [&](size_t, int64_t) { other.steps.emplace_back(); });
  return other;
}

TEST(SameRoundings, GivesTheOthersLogitsWhereOnlyRoundingsDiffer) {
  for (const Rounded& r : kRounded) {
    const auto checkpoint = small(r);
    const OtherRun other = run_other(checkpoint, kHalf / 4);
    ForcedResult result;
    const std::vector<float> logits =
        compare_forced(checkpoint, options_for(KvFormat::fp16), some_text(), other, true, result);
    const RoundingReport total = result.total();
    for (const std::string& problem : total.problems) ADD_FAILURE() << problem;
    for (const auto& [tap, report] : result.reports) printf("%s: %s\n", tap.c_str(), describe(report).c_str());
    printf("%s\n", result.line().c_str());
    EXPECT_EQ(total.codes, 80 * 3 * (256 + 512 + 256 + 512));
    EXPECT_GT(total.differed, 0);
    EXPECT_LT(total.differed, total.codes / 100);
    EXPECT_LE(total.differed, total.could_differ);
    EXPECT_LT(relative_error(logits, other.logits), 1e-5);  // a scale per token is known to its last bit or two
    EXPECT_GT(result.free.mean_kl(), 100 * result.forced.mean_kl() + 1e-7);
  }
}

// One code of a million that no rounding explains is found, and named.
TEST(SameRoundings, FindsOneCodeThatIsNotNextToItsBorder) {
  for (const Rounded& r : kRounded) {
    const auto checkpoint = small(r);
    const OtherRun other = run_other(checkpoint, 0, [](const Rounding& rounding) {
      if (rounding.layer != 2 || rounding.role != LinearRole::down || rounding.input.m != 70) return;
      const RoundedInput& in = rounding.input;
      const CodeGrid grid{in.format == WeightFormat::fp8};
      for (int64_t c = 0; c < in.k; ++c) {  // one from the middle of the format, near the middle between its borders
        float& code = in.codes[31 * in.stride + c];
        const double x = static_cast<double>(in.x[31 * in.k + c] / in.scales[31]), at = static_cast<double>(code);
        if (std::fabs(at) < 50 || std::fabs(at) > 100 || std::fabs(x - at) > 0.01 * std::fabs(at)) continue;
        code = static_cast<float>(grid.at(grid.index(at) + 1));
        return;
      }
      ADD_FAILURE() << "no code to change";
    });
    ForcedResult result;
    compare_forced(checkpoint, options_for(KvFormat::fp16), some_text(), other, false, result);
    EXPECT_EQ(result.total().outside, 1);
    EXPECT_EQ(result.reports.at("mlp_act").outside, 1);
    ASSERT_EQ(result.total().problems.size(), 1u);
    EXPECT_NE(result.total().problems.front().find("layers.2.mlp_act row 31"), std::string::npos);
  }
}

TEST(SameRoundings, FindsSmallFaultsOfOnePlace) {
  for (const Rounded& r : kRounded) {
    const auto checkpoint = small(r);
    const OtherRun other = run_other(checkpoint, kHalf / 4);
    int number = 0;
    for (const Fault& fault : faults()) {
      ++number;
      if (fault.static_only && r.activations != ActivationScaling::static_tensor) continue;
      ForcedResult result;
      compare_forced(std::make_shared<FaultyCheckpoint>(checkpoint, fault.linear, fault.tensor),
                     options_for(KvFormat::fp16), some_text(), other, false, result);
      printf("%s (%d): %s\n", fault.name, number, describe(result.total()).c_str());
      EXPECT_GT(result.total().outside, 0) << to_string(r.weights) << ": " << fault.name << " (" << number << ")";
    }
  }
}

}  // namespace
}  // namespace qg
