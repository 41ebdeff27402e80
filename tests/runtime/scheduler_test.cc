// What the scheduler plans, step by step, without an executor.
#include "runtime/scheduler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "core/error.h"
#include "tests/runtime/engine_runner.h"

namespace qg {
namespace {

constexpr int64_t kVocab = 1000;

// A scheduler and the tokens that "come out": always 7.
class Harness {
 public:
  Harness(const EngineOptions& options, int64_t num_pages, int64_t page_tokens = 4)
      : scheduler(options, {page_tokens, num_pages, 64, kVocab, 0}) {}

  RequestId add(int64_t prompt, int64_t max_tokens, uint64_t seed = 0) {
    Request request;
    request.prompt = random_tokens(seed == 0 ? static_cast<uint64_t>(next) : seed, prompt, kVocab);
    request.max_tokens = max_tokens;
    scheduler.add(next, request);
    return next++;
  }

  // One step as text: "id:begin+tokens", with * where it samples.
  std::string step() {
    std::string text;
    const std::vector<PlannedPiece> pieces = scheduler.plan();
    for (const PlannedPiece& p : pieces) {
      text += (text.empty() ? "" : " ") + std::to_string(p.sequence->id) + ":" +
              std::to_string(p.sequence->computed_tokens) + "+" + std::to_string(p.num_tokens) + (p.sample ? "*" : "");
    }
    scheduler.sent();
    for (const PlannedPiece& p : pieces)
      if (scheduler.complete(p, 7) != FinishReason::none) scheduler.remove(p.sequence);
    return text;
  }

  Scheduler scheduler;
  RequestId next = 1;
};

EngineOptions options(int64_t max_batch, int64_t max_rows, int64_t chunk) {
  EngineOptions o;
  o.max_batch = max_batch;
  o.max_rows = max_rows;
  o.prefill_chunk = chunk;
  return o;
}

TEST(Scheduler, DecodesFirstThenPrefillsWithTheRestOfTheBudget) {
  Harness h(options(8, 12, 8), 100);
  h.add(3, 5);
  EXPECT_EQ(h.step(), "1:0+3*");
  h.add(20, 2);
  h.add(2, 2);
  EXPECT_EQ(h.step(), "1:3+1* 2:0+8 3:0+2*");
  EXPECT_EQ(h.step(), "1:4+1* 3:2+1* 2:8+8");
  EXPECT_EQ(h.step(), "1:5+1* 2:16+4*");
  EXPECT_EQ(h.step(), "1:6+1* 2:20+1*");
  EXPECT_EQ(h.step(), "");
  EXPECT_TRUE(h.scheduler.empty());
  EXPECT_EQ(h.scheduler.pages().used(), 0);
}

TEST(Scheduler, CutsChunksAtPageBoundaries) {
  Harness h(options(8, 11, 7), 100);
  h.add(30, 1);
  h.add(30, 1);
  EXPECT_EQ(h.step(), "1:0+4 2:0+4");
}

TEST(Scheduler, BatchLimitHoldsTheQueueBack) {
  Harness h(options(2, 64, 64), 100);
  for (int i = 0; i < 3; ++i) h.add(2, 2);
  EXPECT_EQ(h.step(), "1:0+2* 2:0+2*");
  EXPECT_EQ(h.step(), "1:2+1* 2:2+1*");
  EXPECT_EQ(h.step(), "3:0+2*");
}

TEST(Scheduler, QueueIsStrictlyInOrder) {
  Harness h(options(8, 64, 64), 12);
  h.add(16, 8);  // 4 pages, 6 in the end
  EXPECT_EQ(h.step(), "1:0+16*");
  h.add(30, 2);  // 8 pages: not now
  h.add(2, 2);   // would fit
  EXPECT_EQ(h.step(), "1:16+1*");
  for (int i = 0; i < 6; ++i) h.step();
  EXPECT_EQ(h.step(), "2:0+30* 3:0+2*") << "both, once the first has ended";
}

TEST(Scheduler, NewestGivesWayAndComesBackFirst) {
  EngineOptions o = options(8, 64, 64);
  o.prefix_reuse = false;
  Harness h(o, 8);
  h.add(8, 16);  // 2 pages, 6 in the end
  h.add(8, 16);
  h.add(8, 16);
  EXPECT_EQ(h.step(), "1:0+8* 2:0+8*") << "2 pages for the third and one spare for each of three are not there";
  for (int i = 0; i < 8; ++i) EXPECT_EQ(h.step().substr(0, 2), "1:");
  EXPECT_EQ(h.scheduler.stats().preemptions, 0);
  EXPECT_EQ(h.step(), "1:16+1*") << "9 pages wanted, 8 there";
  EXPECT_EQ(h.scheduler.stats().preemptions, 1);
  EXPECT_EQ(h.scheduler.stats().waiting, 2);
  std::string text = h.step();
  while (text.starts_with("1:")) text = h.step();
  EXPECT_EQ(text, "2:0+17*");
  while (!h.scheduler.empty()) h.step();
  EXPECT_EQ(h.scheduler.pages().used(), 0);
  EXPECT_EQ(h.scheduler.stats().prefill_tokens, 24);
  EXPECT_EQ(h.scheduler.stats().decode_tokens, 3 * 15);
  EXPECT_GE(h.scheduler.stats().recomputed_tokens, 16);
}

TEST(Scheduler, ReusesFullPagesOnlyAndComputesTheLastToken) {
  Harness h(options(8, 64, 64), 100);
  h.add(12, 1, 5);
  EXPECT_EQ(h.step(), "1:0+12*");
  h.add(12, 1, 5);  // the same prompt: its last page must not be shared, the last token is computed
  EXPECT_EQ(h.step(), "2:8+4*");
  h.add(13, 1, 5);  // the same beginning
  EXPECT_EQ(h.step(), "3:12+1*");
  h.add(11, 1, 5);
  EXPECT_EQ(h.step(), "4:8+3*");
  h.add(3, 1, 5);
  EXPECT_EQ(h.step(), "5:0+3*");
  EXPECT_EQ(h.scheduler.stats().reused_tokens, 8 + 12 + 8);
}

TEST(Scheduler, SharesPagesOfSequencesThatStillRun) {
  Harness h(options(8, 64, 64), 100);
  h.add(12, 9, 5);
  h.step();
  h.add(13, 9, 5);
  EXPECT_EQ(h.step(), "1:12+1* 2:12+1*");
  EXPECT_EQ(h.scheduler.pages().used(), 5) << "three shared, one each";
}

TEST(Scheduler, ReusesGeneratedTokensOfAnEarlierTurn) {
  Harness h(options(8, 64, 64), 100);
  Request first;
  first.prompt = {1, 2, 3};
  first.max_tokens = 6;
  h.scheduler.add(1, first);
  while (!h.scheduler.empty()) h.step();
  Request second;
  second.prompt = {1, 2, 3, 7, 7, 7, 7, 7, 7, 50};
  second.max_tokens = 1;
  h.scheduler.add(2, second);
  h.next = 3;
  EXPECT_EQ(h.step(), "2:8+2*");
}

TEST(Scheduler, ForgetsTheEndOfAPrefixBeforeItsBeginning) {
  Harness h(options(8, 64, 64), 10);
  h.add(20, 1, 5);  // five pages, published
  h.step();
  h.add(28, 1, 6);  // seven pages: two of the five are needed
  h.step();
  h.add(21, 1, 5);
  EXPECT_EQ(h.step(), "3:12+9*");
}

TEST(Scheduler, PrefixReuseCanBeOff) {
  EngineOptions o = options(8, 64, 64);
  o.prefix_reuse = false;
  Harness h(o, 100);
  for (int i = 1; i <= 2; ++i) {
    h.add(12, 1, 5);
    EXPECT_EQ(h.step(), std::to_string(i) + ":0+12*");
  }
  EXPECT_EQ(h.scheduler.pages().cached(), 0);
}

TEST(Scheduler, RequestForAllLogitsComputesEveryRow) {
  Harness h(options(8, 64, 64), 100);
  h.add(12, 1, 5);
  h.step();
  Request request;
  request.prompt = random_tokens(5, 12, kVocab);
  request.logits = LogitsWanted::all;
  h.scheduler.add(2, request);
  EXPECT_EQ(h.step(), "2:0+12*");
}

TEST(Scheduler, CancelFreesPagesOfWaitingAndRunning) {
  Harness h(options(1, 64, 64), 100);
  const RequestId running = h.add(8, 9), waiting = h.add(8, 9);
  h.step();
  EXPECT_TRUE(h.scheduler.cancel(waiting));
  EXPECT_FALSE(h.scheduler.cancel(waiting));
  EXPECT_GT(h.scheduler.pages().used(), 0);
  EXPECT_TRUE(h.scheduler.cancel(running));
  EXPECT_EQ(h.scheduler.pages().used(), 0);
  EXPECT_TRUE(h.scheduler.empty());
  EXPECT_EQ(h.step(), "");
}

TEST(Scheduler, RefusesWhatCanNeverFitAndSaysWhy) {
  const Scheduler s(options(8, 64, 64), {4, 10, 64, kVocab, 35});
  const Scheduler without_model_limit(options(8, 64, 64), {4, 10, 64, kVocab, 0});
  Request r;
  EXPECT_NE(s.refusal(r).find("empty"), std::string::npos);
  r.prompt.assign(30, 1);
  r.max_tokens = 5;
  EXPECT_EQ(s.refusal(r), "");
  r.max_tokens = 6;
  EXPECT_NE(s.refusal(r).find("35"), std::string::npos) << s.refusal(r);
  r.max_tokens = 11;  // the last one is never computed: 40 places are enough
  EXPECT_EQ(without_model_limit.refusal(r), "");
  r.max_tokens = 12;
  EXPECT_NE(without_model_limit.refusal(r).find("40"), std::string::npos) << without_model_limit.refusal(r);
  r.max_tokens = INT64_MAX;
  EXPECT_NE(s.refusal(r), "");
  EXPECT_NE(without_model_limit.refusal(r), "");
  r.max_tokens = -1;
  EXPECT_NE(s.refusal(r).find("max_tokens"), std::string::npos);
  r.max_tokens = 1;
  r.prompt[3] = kVocab;
  EXPECT_NE(s.refusal(r).find("1000"), std::string::npos);
  r.prompt[3] = -1;
  EXPECT_NE(s.refusal(r), "");
  r.prompt[3] = 0;
  r.sampling.temperature = -1;
  EXPECT_NE(s.refusal(r).find("temperature"), std::string::npos);
  r.sampling.temperature = NAN;
  EXPECT_NE(s.refusal(r), "");
  r.sampling.temperature = 1;
  r.sampling.top_p = 0;
  EXPECT_NE(s.refusal(r).find("top_p"), std::string::npos);
  r.sampling.top_p = 1;
  r.sampling.top_k = -1;
  EXPECT_NE(s.refusal(r).find("top_k"), std::string::npos);
}

TEST(Scheduler, SenselessOptionsAreErrors) {
  const SchedulerLimits limits{4, 10, 64, kVocab, 0};
  EXPECT_THROW(Scheduler(options(0, 64, 64), limits), Error);
  EXPECT_THROW(Scheduler(options(8, 0, 64), limits), Error);
  EXPECT_THROW(Scheduler(options(8, 64, 0), limits), Error);
  EXPECT_THROW(Scheduler(options(8, 64, 64), {4, 0, 64, kVocab, 0}), Error);
  EXPECT_THROW(Scheduler(options(8, 64, 64), {0, 10, 64, kVocab, 0}), Error);
  EXPECT_EQ(Scheduler(options(500, 500, 500), limits).options().max_batch, 64) << "every running sequence can decode";
}

EngineOptions deterministic(int64_t max_batch, int64_t max_rows, int64_t chunk) {
  EngineOptions o = options(max_batch, max_rows, chunk);
  o.deterministic = true;
  return o;
}

TEST(SchedulerDeterministic, ChunksAreWholeOrWait) {
  Harness h(deterministic(8, 20, 9), 100);
  EXPECT_EQ(h.scheduler.options().prefill_chunk, 8);
  EXPECT_EQ(h.scheduler.options().max_batch, 8);
  h.add(19, 3);
  h.add(10, 3);
  h.add(6, 3);
  EXPECT_EQ(h.step(), "1:0+8 2:0+8") << "4 rows are left, the third wants 6";
  EXPECT_EQ(h.step(), "1:8+8 2:8+2* 3:0+6*");
  EXPECT_EQ(h.step(), "2:10+1* 3:6+1* 1:16+3*");
}

TEST(SchedulerDeterministic, ReplaysGeneratedTokensOneByOne) {
  EngineOptions o = deterministic(8, 64, 8);
  o.prefix_reuse = false;
  Harness h(o, 8);
  h.add(8, 16);
  h.add(8, 16);
  EXPECT_EQ(h.step(), "1:0+8* 2:0+8*");
  while (h.scheduler.stats().preemptions == 0) h.step();
  std::string text;
  while (text.find("2:0+8") == std::string::npos) text = h.step();
  EXPECT_EQ(text.find("2:0+8*"), std::string::npos) << "the token after the prompt is known: " << text;
  EXPECT_NE(h.step().find("2:8+1"), std::string::npos);
  while (!h.scheduler.empty()) h.step();
  EXPECT_EQ(h.scheduler.stats().decode_tokens, 2 * 15);
}

TEST(SchedulerDeterministic, ReusesWholeChunksOfPromptsOnly) {
  Harness h(deterministic(8, 64, 8), 100);
  h.add(14, 4, 5);  // one whole chunk; its third page is full, but of a shorter piece
  while (!h.scheduler.empty()) h.step();
  EXPECT_EQ(h.scheduler.pages().cached(), 2);
  h.add(24, 1, 5);
  EXPECT_EQ(h.step(), "2:8+8");
  h.step();
  EXPECT_EQ(h.scheduler.pages().cached(), 6);
  h.add(24, 1, 5);  // the last chunk holds the last token
  EXPECT_EQ(h.step(), "3:16+8*");
}

// Whatever else runs, waits or is preempted, a request is cut into pieces that follow from its prompt alone.
TEST(SchedulerDeterministic, PiecesFollowFromTheRequestAlone) {
  Rng rng(3);
  Scheduler scheduler(deterministic(6, 24, 8), {4, 30, 64, kVocab, 0});
  RequestId next = 1;
  for (int i = 0; i < 2000; ++i) {
    if (i < 1500 && rng.next_below(3) == 0) {
      Request request;
      request.prompt = random_tokens(rng.next_below(4), 1 + static_cast<int64_t>(rng.next_below(60)), kVocab);
      request.max_tokens = 1 + static_cast<int64_t>(rng.next_below(40));
      scheduler.add(next++, request);
    }
    const std::vector<PlannedPiece> pieces = scheduler.plan();
    scheduler.sent();
    for (const PlannedPiece& p : pieces) {
      const int64_t begin = p.sequence->computed_tokens, prompt = p.sequence->prompt_tokens;
      if (begin < prompt) {
        ASSERT_EQ(begin % 8, 0);
        ASSERT_EQ(p.num_tokens, std::min<int64_t>(8, prompt - begin));
      } else {
        ASSERT_EQ(p.num_tokens, 1);
      }
      if (scheduler.complete(p, static_cast<int32_t>(rng.next_below(kVocab))) != FinishReason::none)
        scheduler.remove(p.sequence);
    }
  }
  while (!scheduler.empty()) {
    const std::vector<PlannedPiece> pieces = scheduler.plan();
    ASSERT_FALSE(pieces.empty());
    scheduler.sent();
    for (const PlannedPiece& p : pieces)
      if (scheduler.complete(p, 1) != FinishReason::none) scheduler.remove(p.sequence);
  }
  EXPECT_GT(scheduler.stats().preemptions, 10);
  EXPECT_GT(scheduler.stats().reused_tokens, 1000);
  EXPECT_EQ(scheduler.pages().used(), 0);
}

}  // namespace
}  // namespace qg
