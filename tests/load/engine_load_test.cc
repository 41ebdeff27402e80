// The engine over the CPU executor under load: 20,000 requests (2,000 under sanitizers) of random lengths on a tiny
// model, added and cancelled by four threads while one steps, with so few pages that running requests are preempted.
// Every reply must be, to the bit, what the request gives alone; a cancelled one a beginning of it; no page may be lost
// and memory may not grow.
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <filesystem>
#include <map>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "core/memory.h"
#include "model/open_model.h"
#include "runtime/cpu_executor.h"
#include "tests/runtime/engine_runner.h"
#include "tests/sanitized.h"

namespace qg {
namespace {

constexpr uint64_t kThreads = 4, kRequestsEach = kSlowdown == 1 ? 5000 : 500, kDistinct = 60;
constexpr int64_t kPageTokens = 8, kPages = 20;

std::unique_ptr<Engine> make_engine(const std::shared_ptr<const Checkpoint>& checkpoint, KvFormat kv, int64_t pages,
                                    const EngineOptions& options) {
  ExecutorOptions executor;
  executor.kv = kv;
  executor.page_tokens = kPageTokens;
  executor.num_pages = pages;
  executor.max_rows = options.max_rows;
  return std::make_unique<Engine>(make_cpu_executor(checkpoint, executor), options);
}

// One of kDistinct requests: prompts of 1 to 60 tokens, every third one with a common beginning; half are drawn.
Request request_of(uint64_t number, int64_t vocab) {
  Rng rng(number, 11);
  Request request;
  request.prompt = random_tokens(number % 3 == 0 ? 0 : number, 1 + static_cast<int64_t>(rng.next_below(60)), vocab);
  request.max_tokens = 1 + static_cast<int64_t>(rng.next_below(40));
  if (number % 2 == 1) request.sampling = {.temperature = 0.8f, .top_k = 20, .top_p = 0.95f, .seed = number};
  return request;
}

class EngineUnderLoad : public testing::TestWithParam<KvFormat> {};

TEST_P(EngineUnderLoad, RepliesEqualThoseAlone) {
  const std::shared_ptr<const Checkpoint> checkpoint =
      open_model(std::filesystem::path(QG_SOURCE_DIR) / "tests/golden/models/llama-gqa4-llama3rope-bf16");
  const int64_t vocab = checkpoint->table().shape.vocab;
  std::vector<Reply> alone;
  for (uint64_t i = 0; i < kDistinct; ++i) {
    EngineOptions options;
    options.prefix_reuse = false;
    const std::unique_ptr<Engine> single = make_engine(checkpoint, GetParam(), 16, options);
    Collector collector;
    const RequestId id = single->add(request_of(i, vocab));
    run_to_end(*single, collector);
    alone.push_back(collector.requests[id].reply);
  }

  EngineOptions options;
  options.max_rows = 48;
  options.max_batch = 16;
  options.prefill_chunk = 16;
  const std::unique_ptr<Engine> engine = make_engine(checkpoint, GetParam(), kPages, options);
  std::mutex mutex;
  std::map<RequestId, uint64_t> number_of;
  std::atomic<uint64_t> adding{kThreads};
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < kThreads; ++t)
    threads.emplace_back([&, t] {
      Rng rng(t, 5);
      for (uint64_t i = 0; i < kRequestsEach; ++i) {
        const uint64_t number = rng.next_below(kDistinct);
        const RequestId id = engine->add(request_of(number, vocab));
        {
          const std::lock_guard lock(mutex);
          number_of[id] = number;
        }
        if (rng.next_below(10) == 0) engine->cancel(id - static_cast<RequestId>(rng.next_below(6)));
        // Some are in flight at any time, and the queue does not hold all of them from the start.
        while (engine->stats().waiting > 100) std::this_thread::yield();
      }
      --adding;
      engine->wake();
    });
  Collector collector;
  int64_t early_bytes = 0;
  while (adding > 0 || !engine->idle()) {
    engine->wait(std::chrono::milliseconds(100));
    engine->step(std::ref(collector));
    if (early_bytes == 0 && collector.ended.size() > kThreads * kRequestsEach / 3) early_bytes = anonymous_rss_bytes();
  }
  for (std::thread& thread : threads) thread.join();
  const int64_t grown_bytes = anonymous_rss_bytes() - early_bytes;

  ASSERT_EQ(collector.requests.size(), kThreads * kRequestsEach);
  int64_t cancelled = 0;
  for (const auto& [id, collected] : collector.requests) {
    const Reply &got = collected.reply, &expected = alone[number_of.at(id)];
    if (got.finish == FinishReason::cancelled) {
      ++cancelled;
      EXPECT_LE(got.tokens.size(), expected.tokens.size());
      EXPECT_TRUE(std::equal(got.tokens.begin(), got.tokens.end(), expected.tokens.begin())) << "request " << id;
    } else {
      EXPECT_EQ(got, expected) << "request " << id;
    }
  }
  const EngineStats stats = engine->stats();
  expect_no_page_leaked(stats);
  EXPECT_GT(cancelled, 0);
  EXPECT_GT(stats.preemptions, kSlowdown == 1 ? 100 : 10);
  EXPECT_GT(stats.reused_tokens, kSlowdown == 1 ? 10000 : 1000);
  // What this test keeps of 13,000 more replies is a few MB. Sanitizers keep freed memory back.
  if (kSlowdown == 1) {
    EXPECT_LT(grown_bytes, 12 << 20);
  }
}

INSTANTIATE_TEST_SUITE_P(KvFormats, EngineUnderLoad, testing::Values(KvFormat::fp16, KvFormat::fp8),
                         [](const auto& tested) { return "kv_" + std::string(to_string(tested.param)); });

}  // namespace
}  // namespace qg
