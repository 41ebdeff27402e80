#include "runtime/step_plan.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace qg {
namespace {

constexpr StepPlanLimits kLimits{512, 300, 256, true};

SequencePiece piece(int64_t num_tokens, int64_t context_tokens, bool sample = true) {
  SequencePiece p;
  p.num_tokens = num_tokens;
  p.context_tokens = context_tokens;
  p.sample = sample;
  return p;
}

PlannedStep plan(const std::vector<SequencePiece>& pieces, LogitsWanted logits = LogitsWanted::none,
                 bool tapped = false, const StepPlanLimits& limits = kLimits) {
  std::vector<const SequencePiece*> pointers;
  for (const SequencePiece& p : pieces) pointers.push_back(&p);
  return plan_step(pointers, logits, tapped, limits);
}

TEST(StepPlan, BucketsHoldWhatTheyAreFor) {
  for (int64_t rows = 1; rows < 600; ++rows) {
    EXPECT_GE(row_bucket(rows), rows);
    EXPECT_EQ(row_bucket(row_bucket(rows)), row_bucket(rows)) << rows;
    EXPECT_LT(row_bucket(rows) - rows, std::max<int64_t>(8, rows / 2)) << rows;
  }
  EXPECT_EQ(row_bucket(9), 16);
  EXPECT_EQ(row_bucket(65), 96);
  EXPECT_EQ(row_bucket(257), 320);
  EXPECT_EQ(context_bucket(1), 256);
  EXPECT_EQ(context_bucket(256), 256);
  EXPECT_EQ(context_bucket(257), 512);
  EXPECT_EQ(context_bucket(100000), 131072);
}

TEST(StepPlan, PiecesOfOneTokenComeFirstUnlessTheOrderIsKept) {
  const std::vector<SequencePiece> pieces = {piece(5, 0), piece(1, 9), piece(3, 4), piece(1, 0)};
  EXPECT_EQ(step_order(pieces, false), (std::vector<size_t>{1, 3, 0, 2}));
  EXPECT_EQ(step_order(pieces, true), (std::vector<size_t>{0, 1, 2, 3}));
}

TEST(StepPlan, DecodeStepsArePaddedAndServedByAGraph) {
  const PlannedStep planned = plan(std::vector<SequencePiece>(11, piece(1, 300)));
  EXPECT_TRUE(planned.graph);
  EXPECT_EQ(planned.shape.rows, 16);
  EXPECT_EQ(planned.shape.decode_pieces, 16);
  EXPECT_EQ(planned.shape.max_context, 512);
  EXPECT_FALSE(planned.shape.prefill);
}

TEST(StepPlan, WhatAGraphCannotServeIsLaunchedDirectly) {
  const std::vector<SequencePiece> decode(3, piece(1, 10));
  EXPECT_TRUE(plan(decode).graph);
  EXPECT_TRUE(plan(decode, LogitsWanted::sampled).graph);
  EXPECT_FALSE(plan(decode, LogitsWanted::all).graph);
  EXPECT_FALSE(plan(decode, LogitsWanted::none, true).graph) << "taps";
  EXPECT_FALSE(plan(decode, LogitsWanted::none, false, {512, 300, 256, false}).graph) << "switched off";
  EXPECT_FALSE(plan({piece(1, 10), piece(4, 0)}).graph) << "prefill";
  EXPECT_FALSE(plan({piece(1, 10), piece(1, 4, false)}).graph) << "one does not sample";
  EXPECT_FALSE(plan(std::vector<SequencePiece>(290, piece(1, 10))).graph) << "padded to 320, over the most pieces";
  // More rows than logits are kept for: only where nobody asks for them.
  const std::vector<SequencePiece> many(257, piece(1, 10));
  const StepPlanLimits wide{512, 512, 256, true};
  EXPECT_TRUE(plan(many, LogitsWanted::none, false, wide).graph);
  EXPECT_FALSE(plan(many, LogitsWanted::sampled, false, wide).graph);
}

TEST(StepPlan, DecodePiecesAreThoseBeforeTheFirstLongOne) {
  const PlannedStep ordered = plan({piece(1, 1000), piece(1, 3), piece(7, 0)});
  EXPECT_EQ(ordered.shape.decode_pieces, 2);
  EXPECT_TRUE(ordered.shape.prefill);
  EXPECT_EQ(ordered.shape.rows, 9);
  EXPECT_EQ(ordered.shape.max_context, 1024);
  const PlannedStep mixed = plan({piece(1, 1000), piece(7, 0), piece(1, 3)});
  EXPECT_EQ(mixed.shape.decode_pieces, 0) << "rows keep the caller's order, so decode kernels cannot serve them";
  EXPECT_TRUE(mixed.shape.prefill);
}

TEST(StepPlan, TheLastLayerComputesTheRowsThatSample) {
  const std::vector<SequencePiece> pieces = {piece(1, 1000), piece(1, 3), piece(7, 0), piece(5, 9, false)};
  EXPECT_EQ(plan(pieces).shape.last_rows, 3);
  EXPECT_EQ(plan(pieces, LogitsWanted::sampled).shape.last_rows, 3);
  EXPECT_EQ(plan(pieces, LogitsWanted::all).shape.last_rows, 14) << "logits of every row";
  EXPECT_EQ(plan(pieces, LogitsWanted::none, true).shape.last_rows, 14) << "a tap sees every row";
  EXPECT_EQ(plan({piece(7, 0, false)}).shape.last_rows, 0) << "the middle of a prompt";
  EXPECT_EQ(plan(std::vector<SequencePiece>(11, piece(1, 300))).shape.last_rows, 16) << "a graph's padding too";
}

TEST(StepPlan, DeterministicRowsAreThoseOfThePieceWhoeverWantsLogits) {
  StepPlanLimits limits = kLimits;
  limits.deterministic = true;
  for (const auto& pieces : {std::vector{piece(7, 0)}, std::vector{piece(1, 300)}}) {
    const StepShape shape = plan(pieces, LogitsWanted::none, false, limits).shape;
    for (const LogitsWanted logits : {LogitsWanted::sampled, LogitsWanted::all})
      EXPECT_EQ(plan(pieces, logits, false, limits).shape.last_rows, shape.last_rows);
  }
  EXPECT_EQ(plan({piece(7, 0, false)}, LogitsWanted::none, false, limits).shape.last_rows, 0);
}

KvBudget budget() {
  KvBudget b;
  b.card_bytes = 80'000;
  b.free_bytes = 60'000;
  b.reserved_bytes = 1'000;
  b.page_bytes = 100;
  b.page_tokens = 64;
  return b;
}

TEST(KvBudget, TakesWhatIsLeftOrWhatIsWanted) {
  KvBudget b = budget();
  EXPECT_EQ(pages_that_fit(b), 590);
  b.wanted_bytes = 12'345;
  EXPECT_EQ(pages_that_fit(b), 123);
  b.wanted_pages = 7;
  EXPECT_EQ(pages_that_fit(b), 7);
  b.wanted_pages = 590;
  EXPECT_EQ(pages_that_fit(b), 590);
}

TEST(KvBudget, LessThanWantedWillDoWhereItIsSaid) {
  KvBudget b = budget();
  b.less_will_do = true;
  EXPECT_EQ(pages_that_fit(b), 590);
  b.wanted_bytes = 12'345;
  EXPECT_EQ(pages_that_fit(b), 123);
  b.wanted_bytes = 1'000'000;
  EXPECT_EQ(pages_that_fit(b), 590);
  b.wanted_pages = 591;
  EXPECT_EQ(pages_that_fit(b), 590);
  b.free_bytes = 1'099;  // not one page
  EXPECT_THROW(pages_that_fit(b), Error);
}

TEST(KvBudget, ALimitCountsWhatIsUsedAlready) {
  KvBudget b = budget();
  b.limit_bytes = 24'000;  // 20,000 are used, 1,000 kept free
  EXPECT_EQ(pages_that_fit(b), 30);
}

TEST(KvBudget, TooLittleIsAMessageWithTheBudget) {
  const auto message = [](const KvBudget& b) -> std::string {
    try {
      pages_that_fit(b);
    } catch (const Error& e) {
      EXPECT_EQ(e.code(), ExitCode::cannot_here);
      return e.problem();
    }
    return "";
  };
  KvBudget b = budget();
  b.wanted_pages = 591;
  EXPECT_NE(message(b).find("591 pages of 64 tokens take 59100 bytes; of 80000 bytes"), std::string::npos)
      << message(b);
  b.wanted_pages = INT64_MAX / 2;  // the product would not fit into 64 bits
  EXPECT_NE(message(b), "");
  b = budget();
  b.free_bytes = 900;
  EXPECT_NE(message(b).find("0 are left"), std::string::npos) << message(b);
  b = budget();
  b.limit_bytes = 10'000;
  EXPECT_NE(message(b).find("10000 may be used"), std::string::npos) << message(b);
}

}  // namespace
}  // namespace qg
