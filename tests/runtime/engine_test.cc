// The engine over the fake executor: replies, events, options, errors.
#include "runtime/engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <memory>
#include <set>
#include <vector>

#include "core/error.h"
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
      : vocab(fake_options.vocab) {
    auto executor = std::make_unique<FakeExecutor>(fake_options);
    fake = executor.get();
    engine = std::make_unique<Engine>(std::move(executor), options);
  }
  RequestId add(const Request& request) {
    const RequestId id = engine->add(request);
    expected[id] = expected_reply(request, vocab);
    return id;
  }
  void run_and_compare() {
    run_to_end(*engine, collector);
    for (const auto& [id, reply] : expected) EXPECT_EQ(collector.requests[id].reply, reply) << "request " << id;
    expect_no_page_leaked(engine->stats());
  }

  int64_t vocab;
  FakeExecutor* fake;
  std::unique_ptr<Engine> engine;
  std::map<RequestId, Reply> expected;
  Collector collector;
};

TEST(Engine, OneRequest) {
  Fixture f;
  EXPECT_TRUE(f.engine->idle());
  EXPECT_FALSE(f.engine->step(std::ref(f.collector)));
  f.add(make_request(1, 10, 8));
  EXPECT_FALSE(f.engine->idle());
  f.run_and_compare();
  EXPECT_EQ(f.fake->steps, 8);
  EXPECT_FALSE(f.engine->step(std::ref(f.collector)));
}

TEST(Engine, PromptOfOneToken) {
  Fixture f;
  f.add(make_request(1, 1, 1));
  f.add(make_request(2, 1, 9));
  f.run_and_compare();
}

TEST(Engine, BatchedChunkedAndReusedEqualAlone) {
  EngineOptions options;
  options.prefill_chunk = 6;
  options.max_rows = 20;
  Fixture f(options, {.num_pages = 200});
  for (uint64_t i = 0; i < 20; ++i)
    f.add(make_request(i % 5, 3 + static_cast<int64_t>(i % 7) * 5, 1 + static_cast<int64_t>(i)));
  f.run_and_compare();
  EXPECT_GT(f.engine->stats().reused_tokens, 0);
  EXPECT_GT(static_cast<double>(f.engine->stats().batch_sum) / static_cast<double>(f.engine->stats().steps), 3);
}

TEST(Engine, StopTokenEndsAndIsGivenOut) {
  Request request = make_request(3, 5, 10);
  const Reply free = expected_reply(request, FakeOptions{}.vocab);
  request.stop_tokens = {free.tokens[4], 96};
  Fixture f;
  const RequestId id = f.add(request);
  Request ignoring = request;
  ignoring.ignore_stop = true;
  const RequestId ignoring_id = f.add(ignoring);
  f.run_and_compare();
  EXPECT_EQ(f.collector.requests[id].reply.finish, FinishReason::stop);
  EXPECT_EQ(f.collector.requests[id].reply.tokens.back(), free.tokens[4]);
  EXPECT_EQ(f.collector.requests[ignoring_id].reply.tokens, free.tokens);
}

TEST(Engine, SamplingParametersReachTheExecutor) {
  Fixture f;
  std::set<std::vector<int32_t>> replies;
  for (uint64_t seed = 0; seed < 5; ++seed) {
    Request request = make_request(3, 9, 6);
    request.sampling.temperature = 0.7f;
    request.sampling.seed = seed;
    f.add(request);
  }
  f.run_and_compare();
  for (const auto& [id, collected] : f.collector.requests) replies.insert(collected.reply.tokens);
  EXPECT_EQ(replies.size(), 5u);
}

TEST(Engine, NothingToGenerate) {
  Fixture f;
  const RequestId id = f.add(make_request(1, 9, 0));
  f.run_and_compare();
  EXPECT_TRUE(f.collector.requests[id].reply.tokens.empty());
  EXPECT_EQ(f.engine->stats().prefill_tokens, 9);
}

TEST(Engine, PreemptionChangesNothing) {
  for (const bool deterministic : {false, true}) {
    EngineOptions options;
    options.deterministic = deterministic;
    options.prefill_chunk = 8;
    Fixture f(options, {.num_pages = 12});
    for (uint64_t i = 0; i < 12; ++i) f.add(make_request(i, 5, 30));
    f.run_and_compare();
    EXPECT_GT(f.engine->stats().preemptions, 0);
    EXPECT_EQ(f.engine->stats().finished, 12);
    EXPECT_EQ(f.engine->stats().decode_tokens, 12 * 29);
    EXPECT_EQ(f.engine->stats().prefill_tokens + f.engine->stats().reused_tokens, 12 * 5);
  }
}

TEST(Engine, RefusedAtOnceWithAReason) {
  Fixture f({}, {.num_pages = 4});
  const RequestId id = f.engine->add(make_request(1, 10, 8));
  const RequestId fits = f.add(make_request(1, 10, 7));
  f.run_and_compare();
  EXPECT_EQ(f.collector.ended, (std::vector<RequestId>{id, fits}));
  EXPECT_EQ(f.collector.requests[id].reply.finish, FinishReason::refused);
  EXPECT_NE(f.collector.requests[id].reason.find("memory"), std::string::npos);
  EXPECT_EQ(f.engine->stats().refused, 1);
}

TEST(Engine, CancelAtEveryStage) {
  EngineOptions options;
  options.max_batch = 1;
  options.prefill_chunk = 4;
  Fixture f(options);
  const RequestId prefilling = f.engine->add(make_request(1, 12, 50));
  const RequestId waiting = f.engine->add(make_request(2, 12, 50));
  const RequestId not_taken_yet = f.engine->add(make_request(3, 12, 50));
  f.engine->cancel(not_taken_yet);
  f.engine->step(std::ref(f.collector));
  f.engine->cancel(waiting);
  f.engine->cancel(prefilling);
  f.engine->cancel(12345);
  const RequestId last = f.add(make_request(4, 12, 3));
  f.engine->step(std::ref(f.collector));
  EXPECT_EQ(f.collector.ended, (std::vector<RequestId>{not_taken_yet, waiting, prefilling}));
  f.run_and_compare();
  EXPECT_EQ(f.engine->stats().cancelled, 3);
  f.engine->cancel(last);  // it ended long ago
  f.engine->step(std::ref(f.collector));
  EXPECT_EQ(f.collector.ended.size(), 4u);
  for (const RequestId id : {prefilling, waiting, not_taken_yet})
    EXPECT_EQ(f.collector.requests[id].reply.finish, FinishReason::cancelled);
}

TEST(Engine, CallbackMayAddAndCancel) {
  Fixture f;
  int added = 0;
  RequestId other = f.engine->add(make_request(100, 4, 60));
  const auto add_next = [&] { return f.add(make_request(static_cast<uint64_t>(++added), 4, 4)); };
  add_next();
  while (!f.engine->idle()) {
    f.engine->step([&](const TokenEvent& event) {
      f.collector(event);
      if (event.request == other) return;
      if (event.finish != FinishReason::none && added < 5) add_next();
      if (added == 5) f.engine->cancel(other);
    });
  }
  f.run_and_compare();
  EXPECT_EQ(added, 5);
  EXPECT_EQ(f.collector.requests[other].reply.finish, FinishReason::cancelled);
}

// Logits of the fake are 1 at the greedy token and 0 elsewhere.
int32_t hot(const std::vector<float>& logits) {
  EXPECT_EQ(logits.size(), static_cast<size_t>(FakeOptions{}.vocab));
  return static_cast<int32_t>(std::ranges::max_element(logits) - logits.begin());
}

TEST(Engine, SampledLogitsComeWithTheirTokens) {
  Fixture f;
  Request with = make_request(1, 9, 5);
  with.logits = LogitsWanted::sampled;
  f.add(make_request(2, 7, 6));
  const RequestId id = f.add(with);
  f.add(make_request(3, 8, 4));
  f.run_and_compare();
  for (const auto& [request, c] : f.collector.requests) {
    ASSERT_EQ(c.logits.size(), request == id ? 5u : 0u);
    for (size_t i = 0; i < c.logits.size(); ++i) EXPECT_EQ(hot(c.logits[i]), c.reply.tokens[i]);
  }
}

TEST(Engine, AllLogitsComeOnceEachInOrderDespitePreemption) {
  EngineOptions options;
  options.prefill_chunk = 5;
  Fixture f(options, {.num_pages = 12});
  std::vector<RequestId> ids;
  for (uint64_t i = 0; i < 4; ++i) {
    Request request = make_request(i, 13, 20);
    request.logits = i % 2 == 1 ? LogitsWanted::all : LogitsWanted::sampled;
    ids.push_back(f.add(request));
  }
  f.run_and_compare();
  EXPECT_GT(f.engine->stats().preemptions, 0);
  for (uint64_t i = 0; i < 4; ++i) {
    const Collected& c = f.collector.requests[ids[i]];
    const int64_t first = i % 2 == 1 ? -12 : 0;
    ASSERT_EQ(static_cast<int64_t>(c.logits.size()), 20 - first);
    const std::vector<int32_t> prompt = make_request(i, 13, 0).prompt;
    for (int64_t p = first; p < 20; ++p) {
      EXPECT_EQ(c.logit_positions[static_cast<size_t>(p - first)], p);
      Request prefix;
      prefix.max_tokens = 1;
      prefix.prompt.assign(prompt.begin(), prompt.begin() + std::min<int64_t>(13, 13 + p));
      const int32_t expected =
          p < 0 ? expected_reply(prefix, f.vocab).tokens[0] : c.reply.tokens[static_cast<size_t>(p)];
      EXPECT_EQ(hot(c.logits[static_cast<size_t>(p - first)]), expected) << "position " << p;
    }
  }
}

TEST(Engine, ExecutorErrorLosesNoRequest) {
  Fixture f;
  for (uint64_t i = 0; i < 4; ++i) f.add(make_request(i, 9, 6));
  f.fake->fail_at_step = 3;
  f.engine->step(std::ref(f.collector));
  f.engine->step(std::ref(f.collector));
  EXPECT_THROW(f.engine->step(std::ref(f.collector)), std::runtime_error);
  EXPECT_FALSE(f.engine->idle());
  f.run_and_compare();
}

class WrongExecutor : public FakeExecutor {
 public:
  using FakeExecutor::FakeExecutor;
  void step(const StepInput& input, StepOutput& output) override {
    FakeExecutor::step(input, output);
    damage(output);
  }
  std::function<void(StepOutput&)> damage;
};

TEST(Engine, SenselessExecutorOutputIsAnError) {
  const std::vector<std::function<void(StepOutput&)>> damages{
      [](StepOutput& o) { o.sampled[0] = -1; }, [](StepOutput& o) { o.sampled[0] = 97; },
      [](StepOutput& o) { o.sampled.clear(); }, [](StepOutput& o) { o.logits.pop_back(); }};
  for (const auto& damage : damages) {
    auto executor = std::make_unique<WrongExecutor>(FakeOptions{});
    executor->damage = damage;
    Engine engine(std::move(executor), {});
    Request request = make_request(1, 3, 3);
    request.logits = LogitsWanted::sampled;
    engine.add(request);
    EXPECT_THROW(engine.step([](const TokenEvent&) {}), Error);
  }
}

TEST(Engine, TimesDoNotGoBack) {
  Fixture f;
  f.add(make_request(1, 5, 20));
  EngineClock::time_point last = EngineClock::now();
  while (!f.engine->idle())
    f.engine->step([&](const TokenEvent& event) {
      EXPECT_GE(event.time, last);
      EXPECT_LE(event.time, EngineClock::now());
      last = event.time;
    });
}

TEST(Engine, WaitReturnsWithTheReason) {
  Fixture f;
  EXPECT_FALSE(f.engine->wait(std::chrono::milliseconds(1)));
  f.engine->wake();
  EXPECT_FALSE(f.engine->wait(std::chrono::hours(1)));
  f.add(make_request(1, 5, 2));
  EXPECT_TRUE(f.engine->wait(std::chrono::hours(1)));
  f.run_and_compare();
}

}  // namespace
}  // namespace qg
