// The engine over the CPU executor on tiny models: batched, chunked, prefix-cached and preempted runs equal one-by-one
// runs. The CPU executor promises equality to the bit, so tokens and logits are compared exactly.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "model/open_model.h"
#include "runtime/cpu_executor.h"
#include "tests/runtime/engine_runner.h"

namespace qg {
namespace {

struct ModelCase {
  const char* folder;
  KvFormat kv;
};

void PrintTo(const ModelCase& c, std::ostream* out) {
  *out << c.folder << " kv_" << to_string(c.kv);
}

std::string case_name(const testing::TestParamInfo<ModelCase>& tested) {
  std::string name = std::string(tested.param.folder) + "_kv_" + std::string(to_string(tested.param.kv));
  std::ranges::replace(name, '-', '_');
  return name;
}

class EngineOnModel : public testing::TestWithParam<ModelCase> {
 protected:
  EngineOnModel()
      : checkpoint_(open_model(std::filesystem::path(QG_SOURCE_DIR) / "tests/golden/models" / GetParam().folder)) {}

  std::unique_ptr<Engine> engine(const EngineOptions& options, int64_t num_pages) const {
    ExecutorOptions executor;
    executor.kv = GetParam().kv;
    executor.page_tokens = 8;
    executor.num_pages = num_pages;
    executor.max_rows = options.max_rows;
    executor.deterministic = options.deterministic;
    return std::make_unique<Engine>(make_cpu_executor(checkpoint_, executor), options);
  }

  // Prompts of 1 to 40 tokens, some with a common beginning; greedy and drawn.
  std::vector<Request> requests() const {
    std::vector<Request> all;
    const int64_t vocab = checkpoint_->table().shape.vocab;
    for (uint64_t i = 0; i < 10; ++i) {
      Request request;
      request.prompt = random_tokens(i % 3, 1 + static_cast<int64_t>(i * 13 % 40), vocab);
      request.max_tokens = 4 + static_cast<int64_t>(i % 4) * 4;
      request.logits = LogitsWanted::sampled;
      if (i % 2 == 1) request.sampling = {.temperature = 0.8f, .top_k = 20, .top_p = 0.95f, .seed = i};
      all.push_back(request);
    }
    return all;
  }

  // What each request says when it is the only one and nothing is cut or reused.
  std::vector<Collected> alone() const {
    std::vector<Collected> replies;
    for (const Request& request : requests()) {
      EngineOptions options;
      options.prefix_reuse = false;
      const std::unique_ptr<Engine> single = engine(options, 16);
      Collector collector;
      const RequestId id = single->add(request);
      run_to_end(*single, collector);
      replies.push_back(collector.requests[id]);
    }
    return replies;
  }

  // All at once, then all again (so that prefixes are found); returns what the engine counted.
  EngineStats expect_equal_together(const EngineOptions& options, int64_t num_pages) const {
    const std::vector<Collected> expected = alone();
    const std::unique_ptr<Engine> together = engine(options, num_pages);
    for (int round = 0; round < 2; ++round) {
      Collector collector;
      std::vector<RequestId> ids;
      for (const Request& request : requests()) ids.push_back(together->add(request));
      run_to_end(*together, collector);
      for (size_t i = 0; i < ids.size(); ++i) {
        const Collected& got = collector.requests[ids[i]];
        EXPECT_EQ(got.reply, expected[i].reply) << "round " << round << ", request " << i;
        EXPECT_TRUE(got.logits == expected[i].logits) << "round " << round << ", request " << i;
      }
    }
    expect_no_page_leaked(together->stats());
    return together->stats();
  }

  std::shared_ptr<const Checkpoint> checkpoint_;
};

TEST_P(EngineOnModel, BatchedChunkedAndReusedEqualsOneByOne) {
  EngineOptions options;
  options.prefill_chunk = 7;
  options.max_rows = 24;
  const EngineStats stats = expect_equal_together(options, 100);
  EXPECT_GT(stats.reused_tokens, 0);
  EXPECT_GT(stats.batch_sum, 3 * stats.steps);
}

TEST_P(EngineOnModel, PreemptedEqualsOneByOne) {
  for (const bool deterministic : {false, true}) {
    EngineOptions options;
    options.prefill_chunk = 16;
    options.max_rows = 40;
    options.deterministic = deterministic;
    const EngineStats stats = expect_equal_together(options, 9);
    EXPECT_GT(stats.preemptions, 0);
    EXPECT_GT(stats.recomputed_tokens, 0);
  }
}

INSTANTIATE_TEST_SUITE_P(GoldenModels, EngineOnModel,
                         testing::Values(ModelCase{"llama-gqa1-tied-fp32", KvFormat::fp16},
                                         ModelCase{"llama-gqa3-tied-fp16", KvFormat::fp8},
                                         ModelCase{"llama-gqa4-llama3rope-bf16", KvFormat::fp16},
                                         ModelCase{"mistral-window16-bf16", KvFormat::fp8}),
                         case_name);

}  // namespace
}  // namespace qg
