// What the scheduler plans while a step is under way.
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "core/error.h"
#include "runtime/scheduler.h"
#include "tests/runtime/engine_runner.h"

namespace qg {
namespace {

constexpr int64_t kVocab = 1000, kPageTokens = 4;

struct Harness {
  Harness(const EngineOptions& options, int64_t num_pages) : scheduler(options, {kPageTokens, num_pages, 64, kVocab}) {}

  void add(int64_t prompt, int64_t max_tokens, std::vector<int32_t> stops = {}) {
    Request request;
    request.prompt = random_tokens(static_cast<uint64_t>(next), prompt, kVocab);
    request.max_tokens = max_tokens;
    request.stop_tokens = std::move(stops);
    scheduler.add(next++, request);
  }
  // Plans a step and sends it off: "id:begin+tokens", with * where it samples.
  std::string send() {
    std::string text;
    steps.push_back(scheduler.plan());
    for (const PlannedPiece& p : steps.back())
      text += (text.empty() ? "" : " ") + std::to_string(p.sequence->id) + ":" + std::to_string(p.begin) + "+" +
              std::to_string(p.num_tokens) + (p.sample ? "*" : "");
    scheduler.sent();
    return text;
  }
  // The oldest step is done; what it samples is always `token`.
  void complete(int32_t token) {
    for (const PlannedPiece& p : steps.front()) {
      if (p.sequence->ended)
        scheduler.discard(p);
      else if (scheduler.complete(p, token) != FinishReason::none)
        scheduler.remove(p.sequence);
    }
    steps.erase(steps.begin());
  }

  Scheduler scheduler;
  RequestId next = 1;
  std::vector<std::vector<PlannedPiece>> steps;
};

TEST(SchedulerAhead, PlansTokensThatAreNotKnownYet) {
  Harness h({}, 100);
  h.add(3, 4);
  EXPECT_EQ(h.send(), "1:0+3*");
  EXPECT_EQ(h.send(), "1:3+1*");
  h.complete(7);
  EXPECT_EQ(h.send(), "1:4+1*");
  h.complete(8);
  EXPECT_EQ(h.send(), "1:5+1*") << "the fourth and last token";
  h.complete(9);
  EXPECT_EQ(h.send(), "");
  h.steps.pop_back();
  h.complete(10);
  EXPECT_TRUE(h.scheduler.empty());
  EXPECT_EQ(h.scheduler.pages().used(), 0);
  EXPECT_EQ(h.scheduler.stats().decode_tokens, 3);
  EXPECT_EQ(h.scheduler.stats().discarded_tokens, 0);
}

TEST(SchedulerAhead, APieceKnowsItsPlaceInTheStepThatSamplesItsToken) {
  Harness h({}, 100);
  h.add(3, 9);
  h.add(3, 1);
  h.add(3, 9);
  h.send();
  EXPECT_EQ(h.send(), "1:3+1* 3:3+1*");
  EXPECT_EQ(h.steps[0][2].sequence->last_piece, 1) << "in the second step";
  EXPECT_EQ(h.steps[0][2].sequence->awaited_tokens, 2);
}

TEST(SchedulerAhead, PagesOfAnEndedSequenceAreFreeAfterItsLastPiece) {
  EngineOptions options;
  options.prefix_reuse = false;
  Harness h(options, 100);
  h.add(4, 9, {7});
  h.send();
  h.send();
  h.complete(7);
  EXPECT_TRUE(h.scheduler.empty());
  EXPECT_EQ(h.scheduler.pages().used(), 2);
  h.complete(8);
  EXPECT_EQ(h.scheduler.pages().used(), 0);
  EXPECT_EQ(h.scheduler.stats().discarded_tokens, 1);
}

TEST(SchedulerAhead, PagesArePublishedWhenTheirTokensAreKnown) {
  Harness h({}, 100);
  h.add(7, 9);
  h.send();  // tokens 0 to 6
  h.send();  // token 7, which fills the second page
  EXPECT_EQ(h.scheduler.pages().used(), 2);
  h.complete(5);
  EXPECT_EQ(h.steps[0][0].sequence->published_pages, 1);
  h.complete(5);
  h.send();
  EXPECT_EQ(h.steps[0][0].sequence->published_pages, 2);
}

TEST(SchedulerAhead, NobodyGivesWayWhileAStepIsUnderWay) {
  EngineOptions options;
  options.prefix_reuse = false;
  Harness h(options, 6);
  h.add(8, 9);
  h.add(4, 13);
  EXPECT_EQ(h.send(), "1:0+8* 2:0+4*");
  for (int i = 0; i < 4; ++i) {
    EXPECT_TRUE(h.scheduler.can_plan_ahead());
    h.send();
    h.complete(1);
  }
  EXPECT_EQ(h.scheduler.pages().available(), 1);
  EXPECT_FALSE(h.scheduler.can_plan_ahead()) << "both begin a page";
  EXPECT_THROW(h.scheduler.plan(), Error);
  h.complete(1);
  EXPECT_EQ(h.send(), "1:12+1*");
  EXPECT_EQ(h.scheduler.stats().preemptions, 1);
}

TEST(SchedulerAhead, WhatIsTakenBackIsPlannedAgain) {
  Harness h({}, 100);
  h.add(3, 9);
  h.add(3, 9, {7});
  h.send();
  h.send();
  h.complete(7);  // the second ends
  h.send();
  h.scheduler.take_back();
  h.steps.clear();
  EXPECT_EQ(h.scheduler.pages().used(), 2) << "the first keeps those that it has, one of them for token 4";
  EXPECT_EQ(h.send(), "1:3+1*");
  EXPECT_EQ(h.steps[0][0].sequence->tokens.size(), 4u);
}

TEST(SchedulerAhead, ASequenceThatHasNoRowLeftTakesNoPlace) {
  EngineOptions options;
  options.max_batch = 1;
  Harness h(options, 100);
  h.add(3, 1);
  h.add(3, 0);
  h.add(3, 2);
  EXPECT_EQ(h.send(), "1:0+3*");
  EXPECT_EQ(h.send(), "2:0+3*");
  h.complete(1);
  EXPECT_EQ(h.send(), "3:0+3*");
  h.complete(1);
  EXPECT_EQ(h.send(), "3:3+1*");
}

}  // namespace
}  // namespace qg
