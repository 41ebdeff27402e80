#include "grid/selection.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>

namespace qg {
namespace {

Candidate row(int number, WeightFormat weights, double value, double half_width, double ppl, double kld) {
  Candidate c;
  c.number = number;
  c.weights = weights;
  c.case_id = std::string(to_string(weights)) + "#" + std::to_string(number);
  c.value = value;
  c.ci_lo = value - half_width;
  c.ci_hi = value + half_width;
  c.ppl = ppl;
  c.base_ppl = 10.0;
  c.kld_nats = kld;
  return c;
}

using enum WeightFormat;

TEST(Pick, FastestAmongTheAdmissibleWins) {
  const Pick p = pick(
      Use::latency,
      {row(1, fp16, 100, 1, 10.0, 0), row(2, fp8, 180, 1, 10.1, 0.01), row(3, int4_awq, 300, 1, 10.4, 0.04)}, Gates{});
  ASSERT_TRUE(p.winner && p.runner_up);
  EXPECT_EQ(p.winner->weights, fp8);
  EXPECT_EQ(p.runner_up->weights, fp16);
  EXPECT_TRUE(p.ties.empty());
  ASSERT_EQ(p.excluded.size(), 1u);
  EXPECT_EQ(p.excluded[0].code, ReasonCode::ppl_too_high);
  EXPECT_NEAR(p.excluded[0].value, 1.04, 1e-12);
  ASSERT_EQ(p.reasons.size(), 1u);
  EXPECT_EQ(p.reasons[0].code, ReasonCode::fastest);
  EXPECT_NEAR(p.reasons[0].value, 1.8, 1e-12);
}

TEST(Pick, KlDecidesWhoIsAdmissibleNeverWhoWins) {
  const Pick p = pick(Use::latency, {row(1, fp8, 200, 1, 10.0, 0.049), row(2, int8_sq, 100, 1, 10.0, 0.001)}, Gates{});
  EXPECT_EQ(p.winner->weights, fp8);
  const Pick q = pick(Use::latency, {row(1, fp8, 200, 1, 10.0, 0.051), row(2, int8_sq, 100, 1, 10.0, 0.001)}, Gates{});
  EXPECT_EQ(q.winner->weights, int8_sq);
  EXPECT_EQ(q.reasons[0].code, ReasonCode::only_admissible);
}

TEST(Pick, LimitsThemselvesAreAdmissible) {
  EXPECT_TRUE(exclusions(Use::latency, row(1, fp8, 1, 0, 10.2, 0.05), Gates{}).empty());
  EXPECT_EQ(exclusions(Use::latency, row(1, fp8, 1, 0, 10.3, 0.06), Gates{}).size(), 2u);
}

TEST(Pick, TiesByOverlapAndBySmallDifference) {
  // Ahead by 5 %, but the intervals overlap.
  Pick p = pick(Use::latency, {row(1, fp8, 105, 4, 10, 0), row(2, int8_sq, 100, 4, 10, 0)}, Gates{});
  ASSERT_EQ(p.ties.size(), 1u);
  EXPECT_EQ(p.reasons[0].code, ReasonCode::tie_overlap);
  EXPECT_FALSE(p.runner_up);
  // Intervals apart, but less than 3 % between them.
  p = pick(Use::latency, {row(1, fp8, 102.9, 0.1, 10, 0), row(2, int8_sq, 100, 0.1, 10, 0)}, Gates{});
  ASSERT_EQ(p.ties.size(), 1u);
  EXPECT_EQ(p.reasons[0].code, ReasonCode::tie_small);
  // A lead of exactly the share, with intervals apart, is a win. (A quarter: exact in binary.)
  Gates quarter;
  quarter.tie_share = 0.25;
  p = pick(Use::latency, {row(1, fp8, 125, 0.1, 10, 0), row(2, int8_sq, 100, 0.1, 10, 0)}, quarter);
  EXPECT_TRUE(p.ties.empty());
  EXPECT_EQ(p.runner_up->weights, int8_sq);
}

TEST(Pick, RunnerUpIsTheNextThatDoesNotTie) {
  const Pick p = pick(Use::throughput,
                      {row(1, fp16, 50, 1, 10, 0), row(2, fp8, 100, 1, 10, 0), row(3, int8_sq, 99, 1, 10, 0)}, Gates{});
  EXPECT_EQ(p.winner->number, 2);
  ASSERT_EQ(p.ties.size(), 1u);
  EXPECT_EQ(p.ties[0].number, 3);
  EXPECT_EQ(p.runner_up->number, 1);
  EXPECT_EQ(p.reasons[0].code, ReasonCode::fastest);
  EXPECT_EQ(p.reasons[1].code, ReasonCode::tie_small);
}

TEST(Pick, SyntheticNeverWins) {
  Candidate fast = row(1, int4_awq, 1000, 1, 10, 0);
  fast.synthetic = true;
  const Pick p = pick(Use::latency, {fast, row(2, fp8, 10, 1, 10, 0)}, Gates{});
  EXPECT_EQ(p.winner->number, 2);
  ASSERT_EQ(p.excluded.size(), 1u);
  EXPECT_EQ(p.excluded[0].code, ReasonCode::synthetic_weights);
  const Pick alone = pick(Use::latency, {fast}, Gates{});
  EXPECT_FALSE(alone.winner);
  EXPECT_FALSE(alone.least_bad);
  EXPECT_EQ(alone.reasons[0].code, ReasonCode::nothing_measured);
}

// Each is a value that does not stand for the case as it is now, or does not compare with the others.
TEST(Pick, WhatDoesNotBelongTogetherNeverWins) {
  const std::pair<bool Candidate::*, ReasonCode> out[] = {
      {&Candidate::overtaken, ReasonCode::newer_attempt_failed},
      {&Candidate::other_checkpoint, ReasonCode::checkpoints_differ},
      {&Candidate::measured_otherwise, ReasonCode::measured_otherwise}};
  for (const auto& [flag, code] : out) {
    Candidate fast = row(1, fp8, 1000, 1, 10, 0);
    fast.*flag = true;
    const Pick p = pick(Use::throughput, {fast, row(2, fp16, 10, 1, 10, 0)}, Gates{});
    EXPECT_EQ(p.winner->number, 2);
    ASSERT_EQ(p.excluded.size(), 1u);
    EXPECT_EQ(p.excluded[0].code, code);
    EXPECT_FALSE(describe(p.excluded[0]).empty());
    EXPECT_FALSE(pick(Use::throughput, {fast}, Gates{}).least_bad) << "nor is it the least bad";
  }
}

TEST(Pick, SpeedOfAnotherCardDoesNotCountButItsMemoryDoes) {
  Candidate foreign = row(1, int4_awq, 1000, 1, 10, 0);
  foreign.cross_target = true;
  EXPECT_EQ(pick(Use::latency, {foreign, row(2, fp8, 10, 1, 10, 0)}, Gates{}).winner->number, 2);
  EXPECT_EQ(pick(Use::memory, {foreign, row(2, fp8, 10, 1, 10, 0)}, Gates{}).winner->number, 1);
}

TEST(Pick, UnmeasuredIsOutWithAReason) {
  Candidate no_speed = row(1, fp8, 1, 0, 10, 0);
  no_speed.value.reset();
  Candidate no_accuracy = row(2, fp8, 1000, 1, 10, 0);
  no_accuracy.kld_nats.reset();
  Candidate broken = row(3, int8_sq, 1000, 1, NAN, NAN);
  const Pick p = pick(Use::latency, {no_speed, no_accuracy, broken, row(4, fp16, 5, 1, 10, 0)}, Gates{});
  EXPECT_EQ(p.winner->number, 4);
  ASSERT_EQ(p.excluded.size(), 4u);
  EXPECT_EQ(p.excluded[0].code, ReasonCode::speed_unmeasured);
  EXPECT_EQ(p.excluded[1].code, ReasonCode::accuracy_unmeasured);
  EXPECT_EQ(p.excluded[2].code, ReasonCode::ppl_too_high);
}

TEST(Pick, NothingAdmissibleShowsTheLeastBad) {
  const Pick p =
      pick(Use::latency, {row(1, int4_awq, 300, 1, 13.0, 0.25), row(2, int4_awq, 200, 1, 12.0, 0.20)}, Gates{});
  EXPECT_FALSE(p.winner);
  ASSERT_TRUE(p.least_bad);
  EXPECT_EQ(p.least_bad->number, 2);
  EXPECT_EQ(p.reasons[0].code, ReasonCode::nothing_admissible);
  EXPECT_EQ(p.excluded.size(), 4u);
}

TEST(Pick, DoesNotDependOnTheOrderOfRows) {
  std::vector<Candidate> rows{row(1, fp16, 100, 1, 10, 0), row(2, int8_sq, 150, 1, 10, 0), row(3, fp8, 150, 1, 10, 0)};
  const Pick forwards = pick(Use::latency, rows, Gates{});
  std::reverse(rows.begin(), rows.end());
  const Pick backwards = pick(Use::latency, rows, Gates{});
  EXPECT_EQ(forwards.winner->number, 2);
  EXPECT_EQ(backwards.winner->number, 2);
  EXPECT_EQ(forwards.ties[0].number, backwards.ties[0].number);
}

TEST(Pick, FlagsMoveTheGates) {
  Gates loose;
  loose.max_ppl_ratio = 1.5;
  loose.max_kld_nats = 1;
  EXPECT_EQ(pick(Use::latency, {row(1, int4_awq, 300, 1, 13, 0.25), row(2, fp16, 100, 1, 10, 0)}, loose).winner->number,
            1);
  EXPECT_EQ(
      pick(Use::latency, {row(1, int4_awq, 300, 1, 13, 0.25), row(2, fp16, 100, 1, 10, 0)}, Gates{}).winner->number, 2);
}

TEST(Pick, ReasonsSpeak) {
  EXPECT_EQ(describe({ReasonCode::kld_too_high, "x", 0.25, 0.05}), "KL divergence is 0.250 nats, more than 0.050");
  EXPECT_EQ(describe({ReasonCode::tie_small, "y", 0.021, 0.03}), "y ties with it: they differ by 2.1 %, less than 3 %");
  EXPECT_EQ(to_string(ReasonCode::nothing_measured), "nothing_measured");
  EXPECT_EQ(to_string(ReasonCode::ppl_too_high), "ppl_too_high");
  EXPECT_EQ(use_workload(Use::throughput), "1000/1000");
}

}  // namespace
}  // namespace qg
