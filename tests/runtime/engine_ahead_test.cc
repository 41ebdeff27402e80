// The engine over a fake executor that runs ahead: order of the halves of a step, what ends late, what falls back to
// one step at a time. Random load on it: engine_load_test.cc.
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <vector>

#include "core/error.h"
#include "tests/runtime/ahead_executor.h"
#include "tests/runtime/engine_runner.h"

namespace qg {
namespace {

Request make_request(uint64_t seed, int64_t prompt, int64_t max_tokens) {
  Request request;
  request.prompt = random_tokens(seed, prompt, FakeOptions{}.vocab);
  request.max_tokens = max_tokens;
  return request;
}

struct Fixture {
  explicit Fixture(const EngineOptions& options = {}, const FakeOptions& fake_options = {})
      : vocab(fake_options.vocab), fake(std::make_shared<AheadExecutor>(fake_options)) {
    engine = std::make_unique<Engine>(fake, options);
  }
  RequestId add(const Request& request) {
    const RequestId id = engine->add(request);
    expected[id] = expected_reply(request, vocab);
    return id;
  }
  bool step() { return engine->step(std::ref(collector)); }
  void run_and_compare() {
    run_to_end(*engine, collector);
    for (const auto& [id, reply] : expected) EXPECT_EQ(collector.requests[id].reply, reply) << "request " << id;
    expect_no_page_leaked(engine->stats());
    EXPECT_EQ(fake->submitted, fake->refused + fake->collected);
  }

  int64_t vocab;
  std::shared_ptr<AheadExecutor> fake;
  std::unique_ptr<Engine> engine;
  std::map<RequestId, Reply> expected;
  Collector collector;
};

TEST(EngineAhead, TheNextStepIsSubmittedBeforeTheLastIsCollected) {
  Fixture f;
  f.add(make_request(1, 9, 4));
  f.run_and_compare();
  EXPECT_EQ(f.fake->log, "s1 s2 c1 s3 c2 s4 c3 c4 ") << "no step is planned behind the last token of max_tokens";
  EXPECT_EQ(f.engine->stats().discarded_tokens, 0);
  EXPECT_FALSE(f.step());
}

TEST(EngineAhead, ASpentSequenceTakesNoPlaceInTheBatch) {
  EngineOptions options;
  options.max_batch = 1;
  Fixture f(options);
  f.add(make_request(1, 9, 2));
  f.add(make_request(2, 9, 2));
  f.run_and_compare();
  EXPECT_EQ(f.fake->log, "s1 s2 c1 s3 c2 s4 c3 c4 ");
}

TEST(EngineAhead, ChunksOfAPromptFollowEachOther) {
  EngineOptions options;
  options.prefill_chunk = 4;
  Fixture f(options);
  f.add(make_request(1, 14, 3));
  f.run_and_compare();
  EXPECT_EQ(f.engine->stats().steps, 6);
  EXPECT_EQ(f.fake->most_under_way, 2u);
}

TEST(EngineAhead, AStopTokenEndsTheRequestAndItsNextRowIsDiscarded) {
  Request request = make_request(3, 5, 10);
  const Reply free = expected_reply(request, FakeOptions{}.vocab);
  request.stop_tokens = {free.tokens[4]};
  Fixture f;
  const RequestId id = f.add(request);
  while (f.collector.requests[id].reply.finish == FinishReason::none) ASSERT_TRUE(f.step());
  EXPECT_EQ(f.collector.requests[id].reply.tokens.size(), 5u);
  EXPECT_GT(f.engine->stats().pages_used, 0) << "the step under way still writes one of them";
  EXPECT_FALSE(f.engine->idle());
  EXPECT_TRUE(f.engine->wait(std::chrono::hours(1))) << "a step is to be collected";
  EXPECT_TRUE(f.step());
  EXPECT_TRUE(f.engine->idle());
  EXPECT_EQ(f.engine->stats().discarded_tokens, 1);
  EXPECT_EQ(f.engine->stats().decode_tokens, 4);
  f.run_and_compare();
}

TEST(EngineAhead, CancellationWhileAStepIsUnderWay) {
  Fixture f;
  const RequestId victim = f.engine->add(make_request(1, 9, 50));
  f.add(make_request(2, 9, 12));
  f.step();
  f.step();
  f.engine->cancel(victim);
  f.step();
  EXPECT_EQ(f.collector.ended, std::vector<RequestId>{victim});
  EXPECT_EQ(f.collector.requests[victim].reply.tokens.size(), 1u);
  EXPECT_EQ(f.engine->stats().discarded_tokens, 1);
  f.run_and_compare();
  EXPECT_EQ(f.engine->stats().cancelled, 1);
}

TEST(EngineAhead, PreemptionWaitsForTheStepUnderWay) {
  for (const bool deterministic : {false, true}) {
    EngineOptions options;
    options.deterministic = deterministic;
    options.prefill_chunk = 8;
    Fixture f(options, {.num_pages = 12});
    for (uint64_t i = 0; i < 12; ++i) {
      Request request = make_request(i, 5, 30);
      if (i % 3 == 0) request.stop_tokens = {expected_reply(request, f.vocab).tokens[i]};
      f.add(request);
    }
    f.run_and_compare();
    EXPECT_GT(f.engine->stats().preemptions, 0);
    EXPECT_EQ(f.engine->stats().finished, 12);
    EXPECT_GT(f.engine->stats().discarded_tokens, 0);
    EXPECT_EQ(f.fake->most_under_way, 2u);
  }
}

TEST(EngineAhead, RequestsWithLogitsRunOneStepAtATime) {
  Fixture f;
  f.add(make_request(1, 7, 6));
  for (int i = 0; i < 3; ++i) f.step();
  f.fake->log.clear();
  f.fake->most_under_way = 0;
  Request with = make_request(2, 9, 5);
  with.logits = LogitsWanted::all;
  const RequestId id = f.add(with);
  while (f.collector.requests[id].reply.finish == FinishReason::none) f.step();
  EXPECT_EQ(f.fake->log, "c3 s4 c4 s5 c5 s6 c6 s7 c7 s8 c8 ");
  f.run_and_compare();
  const Collected& c = f.collector.requests[id];
  ASSERT_EQ(c.logits.size(), 13u);
  for (size_t i = 0; i < 5; ++i) EXPECT_EQ(c.logits[8 + i][static_cast<size_t>(c.reply.tokens[i])], 1.0f);
  f.add(make_request(3, 7, 6));
  f.run_and_compare();
  EXPECT_EQ(f.fake->most_under_way, 2u) << "afterwards it runs ahead again";
}

TEST(EngineAhead, AnExecutorMayStopRunningAheadAtAnyTime) {
  Fixture f;
  for (uint64_t i = 0; i < 4; ++i) f.add(make_request(i, 9, 20));
  for (int i = 0; i < 12; ++i) {
    f.fake->ahead = i % 5 < 3;
    if (!f.fake->ahead) f.fake->most_under_way = 0;
    f.step();
  }
  f.run_and_compare();
}

TEST(EngineAhead, ErrorsLoseNoRequest) {
  for (const bool at_submit : {false, true})
    for (int64_t at = 1; at < 9; ++at) {
      Fixture f;
      for (uint64_t i = 0; i < 4; ++i) {
        Request request = make_request(i, 9, 6);
        if (i == 0) request.stop_tokens = {expected_reply(request, f.vocab).tokens[2]};
        f.add(request);
      }
      (at_submit ? f.fake->fail_at_submit : f.fake->fail_at_step) = at;
      bool failed = false;
      while (!f.engine->idle() && !failed) {
        try {
          f.step();
        } catch (const std::runtime_error&) {
          failed = true;
        }
      }
      EXPECT_EQ(failed, at <= 6);
      f.run_and_compare();
    }
}

// What an error takes back may have been the last token of requests in whose places others had started.
TEST(EngineAhead, AnErrorMakesNoStepLargerThanTheBatch) {
  for (const bool at_submit : {false, true})
    for (int64_t at = 2; at < 6; ++at) {
      EngineOptions options;
      options.max_batch = options.max_rows = 2;
      Fixture f(options);
      f.fake->record = true;
      for (uint64_t i = 0; i < 8; ++i) f.add(make_request(i, 1, 2));
      (at_submit ? f.fake->fail_at_submit : f.fake->fail_at_step) = at;
      while (!f.engine->idle()) {
        try {
          f.step();
        } catch (const std::runtime_error&) {
        }
      }
      f.run_and_compare();
      for (const auto& step : f.fake->history) EXPECT_LE(step.size(), 2u) << "error at " << at;
    }
}

// Of a prompt, of what was generated, and of what was generated while the next step was on its way with it.
TEST(EngineAhead, LogitsThatAreNoNumbersEndTheirOwnRequestAlone) {
  constexpr int64_t kVocab = FakeOptions{}.vocab;
  const Request bad = make_request(1, 9, 8);
  const Reply whole = expected_reply(bad, kVocab);
  const std::set<int32_t> poisons{bad.prompt[4], whole.tokens[0], whole.tokens[3]};
  uint64_t seed = 2;  // of a request that meets none of them
  while (expected_reply(make_request(seed, 9, 8), kVocab, poisons).finish == FinishReason::failed) ++seed;
  const Request good = make_request(seed, 9, 8);
  for (const bool ahead : {false, true})
    for (const int32_t poison : poisons) {
      Fixture f;
      f.fake->ahead = ahead;
      f.fake->poison = {poison};
      const RequestId one = f.add(good), other = f.add(bad), third = f.add(good);
      f.expected[other] = expected_reply(bad, f.vocab, {poison});
      ASSERT_EQ(expected_reply(good, f.vocab, {poison}), f.expected[one]);
      f.run_and_compare();
      const Collected& failed = f.collector.requests[other];
      EXPECT_EQ(failed.reply.finish, FinishReason::failed);
      EXPECT_NE(failed.reason.find("not finite"), std::string::npos);
      EXPECT_EQ(f.collector.requests[third].reply.finish, FinishReason::length);
      EXPECT_EQ(f.engine->stats().failed, 1);
      EXPECT_EQ(f.engine->stats().finished, 2);
    }
}

// Not those with tokens before the one that was no number either.
TEST(EngineAhead, PagesOfARequestThatFailedAreNotReused) {
  const Request first = make_request(1, 9, 4);
  Request second = make_request(2, 9, 4);
  std::copy_n(first.prompt.begin(), 5, second.prompt.begin());  // a page and a token
  EngineOptions options;
  options.prefill_chunk = 4;
  for (const bool poisoned : {false, true}) {
    Fixture f(options);
    if (poisoned) f.fake->poison = {first.prompt[7]};
    f.expected[f.engine->add(first)] = expected_reply(first, f.vocab, f.fake->poison);
    f.run_and_compare();
    ASSERT_EQ(expected_reply(second, f.vocab, f.fake->poison).finish, FinishReason::length);
    f.add(second);
    f.run_and_compare();
    EXPECT_EQ(f.engine->stats().reused_tokens, poisoned ? 0 : 4);
    EXPECT_EQ(f.engine->stats().failed, poisoned);
  }
}

TEST(EngineAhead, AnEngineThatEndsWaitsForTheStepUnderWay) {
  Fixture f;
  f.add(make_request(1, 9, 20));
  for (int i = 0; i < 3; ++i) f.step();
  EXPECT_EQ(f.fake->submitted, f.fake->collected + 1);
  f.engine.reset();
  EXPECT_EQ(f.fake->submitted, f.fake->collected);
}

TEST(EngineAhead, PrefixesAreReusedAndGeneratedPagesToo) {
  Fixture f;
  const Request first = make_request(1, 9, 12);
  f.add(first);
  f.run_and_compare();
  Request second = first;
  const Reply reply = expected_reply(first, f.vocab);
  second.prompt.insert(second.prompt.end(), reply.tokens.begin(), reply.tokens.end());
  f.add(second);
  f.run_and_compare();
  EXPECT_EQ(f.engine->stats().reused_tokens, 20) << "9 + 12 tokens, of which the last was never computed";
}

// What executors without an asynchronous form of their own get from the interface.
TEST(Executor, SubmitAndCollectOfOneThatOnlySteps) {
  FakeExecutor fake(FakeOptions{});
  EXPECT_FALSE(fake.runs_ahead());
  StepOutput output;
  EXPECT_THROW(fake.collect(output), Error);
  const std::vector<int32_t> tokens{1, 2, 3}, pages{5};
  SequencePiece piece;
  piece.num_tokens = 3;
  piece.pages = pages;
  piece.sample = true;
  const StepInput input{tokens, std::span(&piece, 1), LogitsWanted::none};
  fake.submit(input);
  EXPECT_THROW(fake.submit(input), Error);
  fake.collect(output);
  ASSERT_EQ(output.sampled.size(), 1u);
  EXPECT_GE(output.sampled[0], 0);
  EXPECT_THROW(fake.collect(output), Error);
}

}  // namespace
}  // namespace qg
