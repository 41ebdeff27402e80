// Random load on the engine over the fake executor: replies equal those computed alone, no page is lost, the counts add
// up. The long versions are run by `make test-long`.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "tests/runtime/ahead_executor.h"
#include "tests/runtime/engine_runner.h"

namespace qg {
namespace {

constexpr int64_t kVocab = 97;

struct LoadCase {
  EngineOptions engine;
  FakeOptions fake;
  int64_t longest_prompt = 60, longest_reply = 24;
  uint64_t cancel_one_in = 8;  // 0: none
  bool ahead = false;          // one step is submitted while the one before is under way
  std::set<int32_t> poison;    // FakeExecutor's
};

std::unique_ptr<Executor> make_fake(const LoadCase& load, uint64_t seed) {
  std::unique_ptr<FakeExecutor> fake =
      load.ahead ? std::make_unique<AheadExecutor>(load.fake, seed) : std::make_unique<FakeExecutor>(load.fake);
  fake->poison = load.poison;
  return fake;
}

// Request i of a run: most prompts begin with one of a few shared prefixes, some are repeated whole.
Request random_request(uint64_t seed, uint64_t i, const LoadCase& load) {
  Rng rng(seed, i);
  Request request;
  const uint64_t family = rng.next_below(6);
  request.prompt = random_tokens(
      family, 1 + static_cast<int64_t>(rng.next_below(static_cast<uint64_t>(load.longest_prompt))), kVocab);
  if (rng.next_below(3) > 0) {
    const std::vector<int32_t> own =
        random_tokens(seed * 1000003 + i, static_cast<int64_t>(rng.next_below(12)), kVocab);
    request.prompt.insert(request.prompt.end(), own.begin(), own.end());
  }
  request.max_tokens = static_cast<int64_t>(rng.next_below(static_cast<uint64_t>(load.longest_reply) + 1));
  if (rng.next_below(2) == 0) request.stop_tokens = {3, 5, 8};
  request.ignore_stop = rng.next_below(4) == 0;
  if (rng.next_below(2) == 0) {
    request.sampling.temperature = 1;
    request.sampling.seed = rng.next_bits();
  }
  return request;
}

LoadCase random_case(uint64_t seed) {
  Rng rng(seed, 77);
  LoadCase load;
  load.fake.page_tokens = int64_t{1} << rng.next_below(5);
  load.fake.num_pages = (load.longest_prompt + 12 + load.longest_reply) / load.fake.page_tokens + 1 +
                        static_cast<int64_t>(rng.next_below(60));
  load.fake.max_rows = 1 + static_cast<int64_t>(rng.next_below(90));
  load.engine.max_rows = 1 + static_cast<int64_t>(rng.next_below(90));
  load.engine.max_batch = 1 + static_cast<int64_t>(rng.next_below(24));
  load.engine.prefill_chunk = 1 + static_cast<int64_t>(rng.next_below(40));
  load.engine.prefix_reuse = rng.next_below(4) > 0;
  load.engine.deterministic = rng.next_below(3) == 0;
  if (rng.next_below(3) == 0) load.cancel_one_in = 0;
  if (rng.next_below(4) == 0) load.poison = {13};
  return load;
}

bool is_prefix(const std::vector<int32_t>& part, const std::vector<int32_t>& whole) {
  return part.size() <= whole.size() && std::equal(part.begin(), part.end(), whole.begin());
}

EngineStats run_load(uint64_t seed, uint64_t count, const LoadCase& load) {
  SCOPED_TRACE(testing::Message() << "seed " << seed << ", " << load.fake.num_pages << " pages of "
                                  << load.fake.page_tokens << ", rows " << load.engine.max_rows << ", batch "
                                  << load.engine.max_batch << ", chunk " << load.engine.prefill_chunk << ", reuse "
                                  << load.engine.prefix_reuse << ", deterministic " << load.engine.deterministic
                                  << ", ahead " << load.ahead);
  Engine engine(make_fake(load, seed), load.engine);
  Collector collector;
  Rng rng(seed, 1234567);
  std::vector<RequestId> ids;
  int64_t cancels = 0;
  while (ids.size() < count || !engine.idle()) {
    for (uint64_t burst = rng.next_below(6); burst > 0 && ids.size() < count; --burst) {
      ids.push_back(engine.add(random_request(seed, ids.size(), load)));
      if (load.cancel_one_in == 0 || rng.next_below(load.cancel_one_in) > 0) continue;
      const size_t recent = std::min<size_t>(ids.size(), 40);
      engine.cancel(ids[ids.size() - 1 - rng.next_below(recent)]);
      ++cancels;
    }
    engine.step(std::ref(collector));
    if (testing::Test::HasFailure()) return {};
  }
  int64_t prompt_tokens = 0, decoded_tokens = 0, cancelled = 0;
  for (size_t i = 0; i < ids.size(); ++i) {
    const Request request = random_request(seed, i, load);
    const Reply expected = expected_reply(request, kVocab, load.poison), &got = collector.requests[ids[i]].reply;
    if (got.finish == FinishReason::cancelled) {
      ++cancelled;
      EXPECT_TRUE(is_prefix(got.tokens, expected.tokens)) << "cancelled request " << i;
    } else {
      EXPECT_EQ(got, expected) << "request " << i;
    }
    prompt_tokens += static_cast<int64_t>(request.prompt.size());
    decoded_tokens += std::max<int64_t>(0, static_cast<int64_t>(got.tokens.size()) - 1);
    if (testing::Test::HasFailure()) return {};
  }
  const EngineStats stats = engine.stats();
  expect_no_page_leaked(stats);
  EXPECT_EQ(collector.ended.size(), count);
  EXPECT_EQ(stats.cancelled, cancelled);
  EXPECT_LE(cancelled, cancels);
  EXPECT_EQ(stats.finished + stats.cancelled + stats.failed, static_cast<int64_t>(count));
  if (load.poison.empty()) {
    EXPECT_EQ(stats.failed, 0);
  }
  EXPECT_EQ(stats.refused, 0);
  EXPECT_GE(stats.batch_sum, stats.steps);
  if (cancels == 0 && stats.failed == 0) {
    EXPECT_EQ(stats.prefill_tokens + stats.reused_tokens, prompt_tokens);
    EXPECT_EQ(stats.decode_tokens, decoded_tokens);
  }
  if (stats.preemptions == 0) {
    EXPECT_EQ(stats.recomputed_tokens, 0);
  }
  if (!load.ahead && stats.failed == 0) {
    EXPECT_EQ(stats.discarded_tokens, 0);
  }
  // A request that needs every page there is can still run.
  Request whole;
  whole.prompt = random_tokens(seed, load.fake.num_pages * load.fake.page_tokens, kVocab);
  whole.max_tokens = 1;
  const RequestId id = engine.add(whole);
  run_to_end(engine, collector);
  EXPECT_EQ(collector.requests[id].reply, expected_reply(whole, kVocab, load.poison));
  return stats;
}

// Several random shapes of engine; each must meet what the others may lack.
void run_many(uint64_t first_seed, uint64_t cases, uint64_t requests_each, bool ahead) {
  EngineStats sum;
  for (uint64_t seed = first_seed; seed < first_seed + cases; ++seed) {
    LoadCase load = random_case(seed);
    load.ahead = ahead;
    const EngineStats stats = run_load(seed, requests_each, load);
    if (testing::Test::HasFailure()) return;
    sum.preemptions += stats.preemptions;
    sum.reused_tokens += stats.reused_tokens;
    sum.cancelled += stats.cancelled;
    sum.failed += stats.failed;
    sum.recomputed_tokens += stats.recomputed_tokens;
    sum.discarded_tokens += stats.discarded_tokens;
  }
  EXPECT_GT(sum.preemptions, static_cast<int64_t>(cases));
  EXPECT_GT(sum.reused_tokens, static_cast<int64_t>(cases * requests_each));
  EXPECT_GT(sum.cancelled, static_cast<int64_t>(cases));
  EXPECT_GT(sum.failed, static_cast<int64_t>(cases));
  EXPECT_GT(sum.recomputed_tokens, static_cast<int64_t>(cases));
  if (ahead) {
    EXPECT_GT(sum.discarded_tokens, static_cast<int64_t>(cases));
  }
}

TEST(EngineLoad, RandomRequestsOnRandomEngines) {
  run_many(1, 60, 60, false);
}

TEST(EngineLoad, RandomRequestsOnRandomEnginesAhead) {
  run_many(1, 60, 60, true);
}

class EngineLoadTiny : public testing::TestWithParam<bool> {};

TEST_P(EngineLoadTiny, TenThousandRequestsInTinyMemory) {
  for (const bool deterministic : {false, true}) {
    LoadCase load;
    load.ahead = GetParam();
    load.engine.deterministic = deterministic;
    load.engine.max_batch = 32;
    load.engine.prefill_chunk = 16;
    load.fake = {.page_tokens = 4, .num_pages = 60, .max_rows = 64};
    const EngineStats stats = run_load(42, 10000, load);
    EXPECT_GT(stats.preemptions, 100);
    EXPECT_GT(stats.reused_tokens, 1000);
  }
}

INSTANTIATE_TEST_SUITE_P(Executors, EngineLoadTiny, testing::Bool(),
                         [](const auto& tested) { return tested.param ? "ahead" : "one_at_a_time"; });

TEST(EngineLoadLong, ManyRandomEngines) {
  run_many(1000, 1500, 80, false);
  run_many(1000, 1500, 80, true);
}

// Several threads add and cancel while one steps; meant for ThreadSanitizer too.
void run_threads(uint64_t requests_each, bool ahead) {
  LoadCase load;
  load.ahead = ahead;
  load.engine.max_batch = 16;
  load.fake = {.page_tokens = 4, .num_pages = 60, .max_rows = 64};
  Engine engine(make_fake(load, 3), load.engine);
  constexpr uint64_t kThreads = 4;
  std::mutex mutex;
  std::map<RequestId, uint64_t> number_of;
  std::atomic<uint64_t> running{kThreads};
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      Rng rng(t, 5);
      for (uint64_t i = 0; i < requests_each; ++i) {
        const uint64_t number = t * requests_each + i;
        const RequestId id = engine.add(random_request(9, number, load));
        {
          const std::lock_guard lock(mutex);
          number_of[id] = number;
        }
        if (rng.next_below(8) == 0) engine.cancel(id - static_cast<RequestId>(rng.next_below(8)));
        if (rng.next_below(16) == 0) {
          EXPECT_LE(engine.stats().pages_used, load.fake.num_pages);
        }
        if (rng.next_below(64) == 0) std::this_thread::yield();
      }
      --running;
      engine.wake();
    });
  Collector collector;
  while (running > 0 || !engine.idle()) {
    engine.wait(std::chrono::milliseconds(100));
    engine.step(std::ref(collector));
  }
  for (std::thread& thread : threads) thread.join();
  ASSERT_EQ(collector.requests.size(), kThreads * requests_each);
  for (const auto& [id, collected] : collector.requests) {
    const Reply expected = expected_reply(random_request(9, number_of.at(id), load), kVocab);
    if (collected.reply.finish == FinishReason::cancelled) {
      EXPECT_TRUE(is_prefix(collected.reply.tokens, expected.tokens));
    } else {
      EXPECT_EQ(collected.reply, expected);
    }
  }
  expect_no_page_leaked(engine.stats());
}

TEST(EngineThreads, AddAndCancelFromAnyThread) {
  run_threads(150, false);
  run_threads(150, true);
}

TEST(EngineThreadsLong, AddAndCancelFromAnyThread) {
  run_threads(5000, false);
  run_threads(5000, true);
}

}  // namespace
}  // namespace qg
