// The CUDA executor with a step under way while the next is submitted: tokens that stay on the device, the two places
// that steps take turns with, draws, time. The engine on top of it, at random, is in executor_test.cc too.
#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

#include "core/error.h"
#include "core/rng.h"
#include "kernels/common/cuda.h"
#include "runtime/engine.h"
#include "runtime/make_executor.h"
#include "runtime/sampling.h"
#include "tests/gpu/small_model.h"
#include "tests/runtime/faulty_checkpoint.h"

namespace qg::testing {
namespace {

// Some sequences that are fed by hand: all prompts in one step, then one token each a step, in an order that changes
// from step to step.
class Crowd {
 public:
  Crowd(Executor& executor, int64_t sequences, float temperature) : executor_(executor) {
    int32_t page = 0;
    const Rng rng(5);
    for (int64_t i = 0; i < sequences; ++i) {
      Sequence& s = sequences_.emplace_back();
      for (int64_t t = 0; t <= i % 7; ++t)
        s.prompt.push_back(static_cast<int32_t>(rng.bits(static_cast<uint64_t>(i * 10 + t)) % 1000));
      for (int p = 0; p < 2; ++p) s.pages.push_back(page++);
      s.sampling.temperature = i % 2 == 0 ? temperature : 0;
      s.sampling.seed = static_cast<uint64_t>(i);
    }
  }

  // Replies of `steps` tokens; ahead: a step is submitted before the one before it is collected.
  std::vector<std::vector<int32_t>> run(int64_t steps, bool ahead) {
    std::vector<std::vector<int32_t>> replies(sequences_.size());
    std::vector<size_t> order_before;
    const auto collect = [&](const std::vector<size_t>& order) {
      StepOutput out;
      executor_.collect(out);
      for (size_t i = 0; i < order.size(); ++i) replies[order[i]].push_back(out.sampled[i]);
    };
    for (int64_t step = 0; step < steps; ++step) {
      std::vector<size_t> order(sequences_.size());
      for (size_t i = 0; i < order.size(); ++i) order[i] = (i + static_cast<size_t>(step)) % order.size();
      std::vector<int32_t> tokens;
      std::vector<SequencePiece> pieces;
      for (const size_t number : order) {
        const Sequence& s = sequences_[number];
        SequencePiece& piece = pieces.emplace_back();
        piece.first_row = static_cast<int64_t>(tokens.size());
        piece.pages = s.pages;
        piece.sample = true;
        piece.sampling = s.sampling;
        piece.output_position = step;
        if (step == 0) {
          piece.num_tokens = static_cast<int64_t>(s.prompt.size());
          tokens.insert(tokens.end(), s.prompt.begin(), s.prompt.end());
          continue;
        }
        piece.num_tokens = 1;
        piece.context_tokens = static_cast<int64_t>(s.prompt.size()) + step - 1;
        const auto before = std::find(order_before.begin(), order_before.end(), number) - order_before.begin();
        if (ahead) piece.token_of_piece = before;
        tokens.push_back(ahead ? -1 : replies[number].back());
      }
      executor_.submit({tokens, pieces, LogitsWanted::none});
      if (ahead && step > 0) collect(order_before);
      if (!ahead) collect(order);
      order_before = order;
    }
    if (ahead) collect(order_before);
    return replies;
  }

 private:
  struct Sequence {
    std::vector<int32_t> prompt, pages;
    SamplingParams sampling;
  };
  Executor& executor_;
  std::vector<Sequence> sequences_;
};

TEST(CudaExecutorAhead, UnknownTokensGiveTheSameRepliesAsKnownOnes) {
  for (const bool graphs : {true, false})
    for (const bool deterministic : {false, true})
      for (const int64_t sequences : {1, 5, 16}) {
        ExecutorOptions options = options_for(KvFormat::fp16);
        options.deterministic = deterministic;
        CudaExecutorOptions cuda;
        cuda.graphs = graphs;
        const auto executor = make_executor("cuda", make_model({}), options, cuda);
        EXPECT_TRUE(executor->runs_ahead());
        for (const float temperature : {0.0f, 0.8f}) {
          const auto known = Crowd(*executor, sequences, temperature).run(40, false);
          EXPECT_EQ(Crowd(*executor, sequences, temperature).run(40, true), known)
              << sequences << " sequences, graphs " << graphs << ", deterministic " << deterministic << ", temperature "
              << temperature;
          EXPECT_EQ(Crowd(*executor, sequences, temperature).run(40, true), known) << "from run to run";
        }
      }
}

TEST(CudaExecutorAhead, GraphsThatWereDroppedAreMadeAgain) {
  CudaExecutorOptions few;
  few.most_graphs = 2;  // one for each of the two places that steps take turns with
  const auto all = make_executor("cuda", make_model({}), options_for(KvFormat::fp16));
  const auto some = make_executor("cuda", make_model({}), options_for(KvFormat::fp16), few);
  for (int round = 0; round < 3; ++round)
    for (const int64_t sequences : {1, 5, 16})
      EXPECT_EQ(Crowd(*some, sequences, 0).run(40, true), Crowd(*all, sequences, 0).run(40, true))
          << sequences << " sequences, round " << round;
}

int64_t sum_of(const std::vector<std::vector<int32_t>>& replies) {
  int64_t sum = 0;
  for (const auto& reply : replies)
    for (const int32_t token : reply) sum = (sum * 31 + token) % 1000003;
  return sum;
}

// Streams, events and memory of a process are all on the device that it was told to use; on a machine with one GPU that
// one again. In a process of its own, which has used no other device before.
TEST(LastGpu, ComputesAsTheFirst) {
  ::testing::FLAGS_gtest_death_test_style = "threadsafe";
  const std::string file = ::testing::TempDir() + "quantgrid_last_gpu.txt";
  EXPECT_EXIT(
      {
        CudaExecutorOptions last;
        QG_CUDA(cudaGetDeviceCount(&last.device));
        --last.device;
        const auto executor = make_executor("cuda", make_model({}), options_for(KvFormat::fp16), last);
        std::ofstream(file) << sum_of(Crowd(*executor, 5, 0).run(20, true));
        exit(0);
      },
      ::testing::ExitedWithCode(0), "");
  int64_t sum = -1;
  std::ifstream(file) >> sum;
  EXPECT_EQ(sum,
            sum_of(Crowd(*make_executor("cuda", make_model({}), options_for(KvFormat::fp16)), 5, 0).run(20, true)));
  std::filesystem::remove(file);
}

TEST(CudaExecutorAhead, RefusesWhatItCannotDo) {
  const auto executor = make_executor("cuda", make_model({}), options_for(KvFormat::fp16));
  StepOutput out;
  EXPECT_THROW(executor->collect(out), Error);
  const std::vector<int32_t> tokens{3}, pages{0};
  SequencePiece piece;
  piece.num_tokens = 1;
  piece.pages = pages;
  const StepInput input{tokens, std::span(&piece, 1), LogitsWanted::none};
  piece.token_of_piece = 0;
  EXPECT_THROW(executor->submit(input), Error) << "no step before";
  piece.token_of_piece = -1;
  executor->submit(input);
  piece.token_of_piece = 0;
  EXPECT_THROW(executor->submit(input), Error) << "the piece before samples nothing";
  piece.token_of_piece = -1;
  piece.sample = true;
  executor->submit(input);
  EXPECT_THROW(executor->submit(input), Error) << "a third step";
  EXPECT_THROW(executor->step(input, out), Error) << "a step at once in between";
  executor->collect(out);
  EXPECT_EQ(out.sampled[0], -1);
  executor->collect(out);
  EXPECT_GE(out.sampled[0], 0);
  executor->set_tap([](const std::string&, std::span<const float>, int64_t, int64_t) {});
  EXPECT_FALSE(executor->runs_ahead());
}

// A request with temperature gets what sample_token makes of its logits, whether or not they come to the host; a draw
// on the edge of two tokens may go the other way.
TEST(CudaExecutorAhead, DrawnTokensAreThoseOfTheirLogits) {
  const auto checkpoint = make_model({});
  int64_t compared = 0, different = 0, greedy = 0;
  std::vector<std::vector<int32_t>> replies;
  for (const LogitsWanted logits : {LogitsWanted::sampled, LogitsWanted::none}) {
    EngineOptions options;
    options.max_rows = 512;
    options.max_batch = 8;
    Engine engine(make_executor("cuda", checkpoint, options_for(KvFormat::fp16)), options);
    std::map<RequestId, Request> requests;
    std::map<RequestId, std::vector<int32_t>> tokens;
    for (int32_t i = 0; i < 8; ++i) {
      Request request;
      request.prompt = {i, 2 * i + 1, 500};
      request.max_tokens = 30;
      request.logits = logits;
      request.sampling = {.temperature = 0.9f, .top_k = i % 2 == 0 ? 50 : 0, .top_p = 0.95f, .seed = 7};
      requests[engine.add(request)] = request;
    }
    while (!engine.idle())
      engine.step([&](const TokenEvent& event) {
        tokens[event.request].push_back(event.token);
        if (event.logits.empty()) return;
        ++compared;
        different += event.token != sample_token(event.logits, requests[event.request].sampling, event.position);
        greedy += event.token == greedy_token(event.logits);
      });
    for (const auto& [id, reply] : tokens) replies.push_back(reply);
  }
  EXPECT_EQ(compared, 8 * 30);
  EXPECT_LE(different, 3);
  EXPECT_LT(greedy, compared / 2) << "nothing was drawn";
  ASSERT_EQ(replies.size(), 16u);
  for (size_t i = 0; i < 8; ++i) EXPECT_EQ(replies[i], replies[8 + i]) << "with and without logits on the host";
}

// Does what the other does, one step at a time.
class OneAtATime : public Executor {
 public:
  explicit OneAtATime(std::shared_ptr<Executor> executor) : executor_(std::move(executor)) {}
  const ModelTable& table() const override { return executor_->table(); }
  KvFormat kv_format() const override { return executor_->kv_format(); }
  int64_t page_tokens() const override { return executor_->page_tokens(); }
  int64_t num_pages() const override { return executor_->num_pages(); }
  int64_t max_rows() const override { return executor_->max_rows(); }
  void step(const StepInput& input, StepOutput& output) override { executor_->step(input, output); }
  void copy_page(int32_t from, int32_t to) override { executor_->copy_page(from, to); }
  void set_tap(Tap tap) override { executor_->set_tap(std::move(tap)); }
  std::vector<std::string> kernels() const override { return executor_->kernels(); }
  ComputePath compute_path() const override { return executor_->compute_path(); }
  int64_t weight_bytes() const override { return executor_->weight_bytes(); }
  int64_t kv_pool_bytes() const override { return executor_->kv_pool_bytes(); }
  std::string name() const override { return executor_->name(); }

 private:
  std::shared_ptr<Executor> executor_;
};

struct Reply {
  std::vector<int32_t> tokens;
  FinishReason finish = FinishReason::none;
  bool operator==(const Reply&) const = default;
};

// Requests with stop tokens, half of them drawn, in memory for few of them.
std::vector<Reply> replies_of(const std::shared_ptr<const Checkpoint>& checkpoint, bool ahead, EngineStats* stats) {
  EngineOptions options;
  options.max_batch = 24;
  options.max_rows = 256;
  options.prefill_chunk = 64;
  options.deterministic = true;
  ExecutorOptions executor_options = options_for(KvFormat::fp16);
  executor_options.page_tokens = 16;
  executor_options.num_pages = 16;
  executor_options.max_rows = options.max_rows;
  executor_options.max_pieces = options.max_batch;
  executor_options.deterministic = true;
  std::shared_ptr<Executor> executor = make_executor("cuda", checkpoint, executor_options);
  if (!ahead) executor = std::make_shared<OneAtATime>(executor);
  Engine engine(executor, options);
  Rng rng(3);
  std::map<RequestId, size_t> numbers;
  std::vector<Reply> replies(300);
  for (size_t i = 0; i < replies.size(); ++i) {
    Request request;
    for (uint64_t t = 1 + rng.next_below(40); t > 0; --t)
      request.prompt.push_back(static_cast<int32_t>(rng.next_below(1000)));
    request.max_tokens = static_cast<int64_t>(1 + rng.next_below(140));
    for (uint64_t s = rng.next_below(40); s > 0; --s)
      request.stop_tokens.push_back(static_cast<int32_t>(rng.next_below(1000)));
    if (i % 2 == 0) request.sampling = {.temperature = 1, .top_k = 0, .top_p = 1, .seed = i};
    numbers[engine.add(request)] = i;
  }
  while (!engine.idle())
    engine.step([&](const TokenEvent& event) {
      Reply& reply = replies[numbers.at(event.request)];
      if (event.token >= 0) reply.tokens.push_back(event.token);
      reply.finish = event.finish;
    });
  *stats = engine.stats();
  EXPECT_EQ(stats->pages_used, 0) << "pages were leaked";
  return replies;
}

constexpr int32_t kPoison = 999;

// Replies to `prompts`, one after the other or all at once, in pages that everybody uses in turn.
std::vector<Reply> poisoned_replies(KvFormat kv, const std::vector<std::vector<int32_t>>& prompts, bool together) {
  const auto checkpoint = std::make_shared<test::FaultyCheckpoint>(
      make_model({}), test::FaultyCheckpoint::LinearFault{}, [](const TensorSpec& spec, Tensor& tensor) {
        if (spec.role == TensorRole::embedding) tensor = test::scaled(tensor, INFINITY, kPoison * 256 + 3);
      });
  EngineOptions options;
  options.deterministic = true;
  options.prefix_reuse = false;
  ExecutorOptions executor_options = options_for(kv);
  executor_options.num_pages = 8;
  executor_options.deterministic = true;
  Engine engine(make_executor("cuda", checkpoint, executor_options), options);
  std::map<RequestId, size_t> numbers;
  std::vector<Reply> replies(prompts.size());
  const auto run = [&] {
    while (!engine.idle())
      engine.step([&](const TokenEvent& event) {
        Reply& reply = replies[numbers.at(event.request)];
        if (event.token >= 0) reply.tokens.push_back(event.token);
        reply.finish = event.finish;
      });
  };
  for (size_t i = 0; i < prompts.size(); ++i) {
    Request request;
    request.prompt = prompts[i];
    request.max_tokens = 20;
    numbers[engine.add(request)] = i;
    if (!together) run();
  }
  run();
  EXPECT_EQ(engine.stats().pages_used, 0);
  return replies;
}

// Nor does what it left in the pages of the cache reach those who use them next.
TEST(CudaExecutorAhead, LogitsThatAreNoNumbersEndTheirOwnRequestAlone) {
  std::vector<int32_t> good, bad;
  for (int32_t i = 0; i < 90; ++i) good.push_back(7 * i % 900), bad.push_back(i == 40 ? kPoison : 11 * i % 900);
  for (const KvFormat kv : {KvFormat::fp16, KvFormat::fp8, KvFormat::int8}) {
    const Reply alone = poisoned_replies(kv, {good}, true)[0];
    EXPECT_EQ(alone.finish, FinishReason::length);
    for (const bool together : {true, false}) {
      const std::vector<Reply> replies = poisoned_replies(kv, {bad, good, bad, bad, good}, together);
      for (const size_t i : {0, 2, 3}) {
        if (kv == KvFormat::int8) continue;  // has no code for what is no number: later tokens do not see it
        EXPECT_EQ(replies[i].finish, FinishReason::failed);
        EXPECT_TRUE(replies[i].tokens.empty());
      }
      for (const size_t i : {1, 4}) EXPECT_EQ(replies[i], alone) << to_string(kv) << ", request " << i;
    }
  }
}

TEST(CudaExecutorAhead, RepliesEqualThoseOfOneStepAtATime) {
  const auto checkpoint = make_model({});
  EngineStats ahead, one;
  EXPECT_EQ(replies_of(checkpoint, true, &ahead), replies_of(checkpoint, false, &one));
  printf("ahead: %ld steps, %ld discarded, %ld preemptions; one at a time: %ld steps\n", ahead.steps,
         ahead.discarded_tokens, ahead.preemptions, one.steps);
  EXPECT_GT(ahead.discarded_tokens, 20) << "rows of requests that a stop token ended";
  EXPECT_GT(ahead.preemptions, 5);
  EXPECT_EQ(one.discarded_tokens, 0);
}

TEST(CudaExecutorAhead, DeviceTimeIsWithinTheTimeThatPassed) {
  Model m;
  m.hidden = 2048, m.ffn = 8192, m.heads = 16, m.kv_heads = 4, m.head_dim = 128, m.layers = 8;
  const auto executor = make_executor("cuda", make_model(m), options_for(KvFormat::fp16));
  Crowd(*executor, 8, 0).run(100, true);  // graphs are captured
  for (const bool ahead : {false, true}) {
    const double before = executor->device_seconds();
    const auto start = std::chrono::steady_clock::now();
    Crowd(*executor, 8, 0).run(100, ahead);
    const double busy = executor->device_seconds() - before;
    const double passed = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    printf("ahead %d: busy %.3f ms of %.3f\n", ahead, 1e3 * busy, 1e3 * passed);
    EXPECT_LE(busy, 1.001 * passed);
    EXPECT_GT(busy, (ahead ? 0.7 : 0.4) * passed);
  }
}

}  // namespace
}  // namespace qg::testing
