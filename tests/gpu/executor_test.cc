// The CUDA executor against cpu_executor, end to end, on small random models of the real head sizes and groups.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "core/parallel.h"
#include "core/rng.h"
#include "runtime/cuda_forward.h"
#include "runtime/engine.h"
#include "runtime/make_executor.h"
#include "tests/gpu/model_logits.h"
#include "tests/gpu/small_model.h"

namespace qg::testing {
namespace {

bool rounds_activations(const Model& m) {
  return (m.weights == WeightFormat::fp8 || m.weights == WeightFormat::int8_sq) &&
         m.activations != ActivationScaling::none;
}

// Half rounds every activation to 2^-11; through two layers the errors of a logit stay near 1e-3 of its size. Codes of
// K and V: values on the edge between two go either way. Where activations are rounded to 8 bits, a difference of d
// becomes sqrt(d * step) at the next rounding, since a share d / step of the values moves by a whole step; after some
// layers the two sides' rounding errors are independent, so that they differ by sqrt(2) times the format's own error.
double tolerance(const Model& m, KvFormat kv, double format_error) {
  if (rounds_activations(m)) return std::sqrt(2.0) * format_error;
  return kv != KvFormat::fp16 ? 2e-2 : 3e-3;
}

void compare(const Model& m, KvFormat kv, const CudaExecutorOptions& cuda = {}) {
  const auto checkpoint = make_model(m);
  const auto sequences = random_sequences({1, 2, 65, 130, 300}, m.vocab);
  Model reference = m;  // what the kernels of the family compute
  if (cuda.family == KernelFamily::sm80 && m.weights == WeightFormat::fp8)
    reference.activations = ActivationScaling::none;
  const auto cpu = make_executor("cpu", make_model(reference), options_for(kv));
  const auto gpu = make_executor("cuda", checkpoint, options_for(kv), cuda);
  const auto want = logits_of(*cpu, sequences, 100), got = logits_of(*gpu, sequences, 100);
  Model exact = m;
  exact.weights = WeightFormat::fp16;
  const auto base = make_executor("cpu", make_model(exact), options_for(KvFormat::fp16));
  const double format_error = relative_error(want, logits_of(*base, sequences, 100));
  const double error = relative_error(got, want);
  std::string names;
  for (const std::string& name : gpu->kernels()) names += " " + name;
  printf("%s kv %s heads %ld/%ld x %ld: relative error %.2e, of the format %.2e;%s\n",
         std::string(to_string(m.weights)).c_str(), std::string(to_string(kv)).c_str(), m.heads, m.kv_heads, m.head_dim,
         error, format_error, names.c_str());
  EXPECT_LE(error, tolerance(reference, kv, format_error));
}

TEST(CudaExecutor, EveryWeightAndKvFormatMatchesTheCpu) {
  for (const KvFormat kv : kKvFormats)
    for (const WeightFormat weights : kWeightFormats) {
      Model m;
      m.weights = weights;
      compare(m, kv);
    }
}

TEST(CudaExecutor, DynamicFp8) {
  Model m;
  m.weights = WeightFormat::fp8;
  m.activations = ActivationScaling::dynamic_token;
  compare(m, KvFormat::fp8);
}

TEST(CudaExecutor, HeadSizesGroupsTiesAndWindows) {
  for (const int64_t head_dim : {64, 128})
    for (const int64_t group : {1, 3, 4, 8}) {
      Model m;
      m.kv_heads = 2, m.heads = 2 * group, m.head_dim = head_dim;
      m.tied = group == 3;
      if (group == 4) m.window = 64;
      compare(m, group == 8 ? KvFormat::int8 : KvFormat::fp16);
    }
}

TEST(CudaExecutor, EarlierFamilies) {
  for (const KernelFamily family : {KernelFamily::sm80, KernelFamily::sm89})
    for (const WeightFormat weights : kWeightFormats) {
      Model m;
      m.weights = weights;
      CudaExecutorOptions cuda;
      cuda.family = family;
      compare(m, KvFormat::fp8, cuda);
    }
}

// Where two executors part: the error of every intermediate, and of each layer's output beyond that of its input.
TEST(CudaExecutor, TapsStayCloseLayerByLayer) {
  for (const WeightFormat weights : kWeightFormats) {
    Model m;
    m.weights = weights;
    m.layers = 3;
    const auto checkpoint = make_model(m);
    const auto tokens = random_sequences({200}, m.vocab).front();
    const auto cpu = make_executor("cpu", checkpoint, options_for(KvFormat::fp16));
    const auto gpu = make_executor("cuda", checkpoint, options_for(KvFormat::fp16));
    const Taps want = taps_of(*cpu, tokens), got = taps_of(*gpu, tokens);
    printf("%s:", std::string(to_string(weights)).c_str());
    for (const auto& [name, values] : got) {
      // What linear layers wrote: cases_test.cc looks at it.
      if (name.ends_with("qkv") || name.ends_with("gate_up") || name.ends_with("projected")) continue;
      ASSERT_TRUE(want.contains(name)) << name;
      const double error = relative_error({values}, {want.at(name)});
      printf(" %s %.1e", name.c_str(), error);
      // Before the first rounding of activations the two are close in every format.
      const bool exact = !rounds_activations(m) || name == "embedding" || name == "layers.0.q";
      EXPECT_LE(error, exact ? 5e-3 : 1.2e-1) << name << " of " << to_string(weights);
    }
    printf("\n");
  }
}

// The logits of the last rows of some sequences of two tokens, `together` in a step, and the tokens taken from them.
StepOutput last_rows_of(const std::vector<std::vector<int32_t>>& sequences, size_t together) {
  ExecutorOptions options = options_for(KvFormat::fp16);
  options.num_pages = static_cast<int64_t>(together);
  options.max_pieces = static_cast<int64_t>(together);
  options.max_rows = 2 * options.max_pieces;
  const auto executor = make_executor("cuda", make_model({}), options);
  StepOutput all;
  for (size_t first = 0; first < sequences.size(); first += together) {
    std::vector<int32_t> tokens;
    std::vector<SequencePiece> pieces;
    std::vector<std::vector<int32_t>> pages;
    pages.reserve(together);
    for (size_t i = first; i < std::min(first + together, sequences.size()); ++i) {
      pages.push_back({static_cast<int32_t>(i - first)});
      SequencePiece piece;
      piece.first_row = static_cast<int64_t>(tokens.size());
      piece.num_tokens = 2;
      piece.pages = pages.back();
      piece.sample = true;
      pieces.push_back(piece);
      tokens.insert(tokens.end(), sequences[i].begin(), sequences[i].end());
    }
    StepOutput out;
    executor->step({tokens, pieces, LogitsWanted::sampled}, out);
    all.sampled.insert(all.sampled.end(), out.sampled.begin(), out.sampled.end());
    all.logits.insert(all.logits.end(), out.logits.begin(), out.logits.end());
  }
  return all;
}

// More rows sample than logits are kept of at once.
TEST(CudaExecutor, ManySampledRowsAreThoseOfFew) {
  constexpr size_t kSequences = kMostLogitRows + 76, kVocab = 1000;
  std::vector<std::vector<int32_t>> sequences(kSequences);
  Rng rng(12);
  for (auto& tokens : sequences)
    for (int i = 0; i < 2; ++i) tokens.push_back(static_cast<int32_t>(rng.next_below(kVocab)));
  const StepOutput many = last_rows_of(sequences, kSequences), few = last_rows_of(sequences, 50);
  ASSERT_EQ(many.sampled.size(), kSequences);
  ASSERT_EQ(many.logits.size(), kSequences * kVocab);
  for (size_t i = 0; i < kSequences; ++i) {
    const auto row = many.logits.begin() + static_cast<int64_t>(i * kVocab);
    EXPECT_EQ(many.sampled[i], std::max_element(row, row + kVocab) - row) << "sequence " << i;
    EXPECT_LE(relative_error({{row, row + kVocab}}, {{few.logits.begin() + static_cast<int64_t>(i * kVocab),
                                                      few.logits.begin() + static_cast<int64_t>((i + 1) * kVocab)}}),
              3e-3)
        << "sequence " << i;
  }
}

struct Crowd {
  int64_t batch, pages, requests, max_tokens;
  double cancelled;  // share of requests that are cancelled at a random time
  bool graphs, deterministic;
};

// Greedy tokens of many requests; whoever is done makes room.
std::vector<std::vector<int32_t>> generate(const std::shared_ptr<const Checkpoint>& checkpoint, const Crowd& crowd) {
  EngineOptions options;
  options.max_batch = crowd.batch;
  options.max_rows = 256;
  options.prefill_chunk = 64;
  options.deterministic = crowd.deterministic;
  ExecutorOptions executor = options_for(KvFormat::fp16);
  executor.page_tokens = 16;
  executor.num_pages = crowd.pages;
  executor.max_rows = options.max_rows;
  executor.max_pieces = crowd.batch;
  executor.deterministic = crowd.deterministic;
  CudaExecutorOptions cuda;
  cuda.graphs = crowd.graphs;
  Engine engine(make_executor("cuda", checkpoint, executor, cuda), options);
  Rng lengths(3), cancels(4);
  std::vector<std::vector<int32_t>> replies(static_cast<size_t>(crowd.requests));
  std::map<RequestId, size_t> numbers;
  std::vector<RequestId> victims;
  for (int64_t i = 0; i < crowd.requests; ++i) {
    Request request;
    const uint64_t length = 1 + lengths.next_below(100);
    for (uint64_t t = 0; t < length; ++t) request.prompt.push_back(static_cast<int32_t>(lengths.next_below(1000)));
    request.max_tokens = static_cast<int64_t>(1 + lengths.next_below(static_cast<uint64_t>(crowd.max_tokens)));
    request.ignore_stop = true;
    const RequestId id = engine.add(request);
    numbers[id] = static_cast<size_t>(i);
    if (cancels.next_uniform() < crowd.cancelled) victims.push_back(id);
  }
  size_t next_victim = 0;
  while (!engine.idle()) {
    engine.step([&](const TokenEvent& event) {
      if (event.token >= 0) replies[numbers.at(event.request)].push_back(event.token);
    });
    // Near the request that is being served: some are cancelled while they wait, some while they run.
    if (cancels.next_uniform() < 0.3 && next_victim < victims.size()) engine.cancel(victims[next_victim++]);
  }
  const EngineStats stats = engine.stats();
  EXPECT_EQ(stats.pages_used, 0) << "pages were leaked";
  printf("batch %ld, %ld pages: %ld steps, %ld preemptions, %ld cancelled\n", crowd.batch, crowd.pages, stats.steps,
         stats.preemptions, stats.cancelled);
  return replies;
}

TEST(CudaExecutor, GraphsGiveTheSameTokensAsDirectLaunches) {
  const auto checkpoint = make_model({});
  EXPECT_EQ(generate(checkpoint, {16, 256, 200, 16, 0, true, false}),
            generate(checkpoint, {16, 256, 200, 16, 0, false, false}));
}

// Every reply, or as much of it as was given before its request was cancelled, equals the one computed alone.
void expect_as_alone(Crowd crowd, const std::shared_ptr<const Checkpoint>& checkpoint,
                     const std::vector<std::vector<int32_t>>& alone) {
  const auto together = generate(checkpoint, crowd);
  int64_t compared = 0;
  for (size_t i = 0; i < alone.size(); ++i) {
    ASSERT_LE(together[i].size(), alone[i].size());
    const std::vector<int32_t> begin(alone[i].begin(), alone[i].begin() + static_cast<int64_t>(together[i].size()));
    ASSERT_EQ(together[i], begin) << "request " << i << ", " << crowd.pages << " pages";
    compared += static_cast<int64_t>(together[i].size());
  }
  EXPECT_GT(compared, crowd.requests * crowd.max_tokens * 2 / 5);
}

TEST(CudaExecutor, TenThousandDeterministicRepliesDoNotDependOnTheBatch) {
  const auto checkpoint = make_model({});
  const auto alone = generate(checkpoint, {1, 256, 10000, 16, 0, true, true});
  expect_as_alone({24, 256, 10000, 16, 0.1, true, true}, checkpoint, alone);
  expect_as_alone({24, 24, 10000, 16, 0.1, true, true}, checkpoint, alone);
}

// Replies that outgrow what was kept free for them when they started.
TEST(CudaExecutor, PreemptedRepliesEqualThoseComputedAlone) {
  const auto checkpoint = make_model({});
  const auto alone = generate(checkpoint, {1, 256, 500, 100, 0, true, true});
  expect_as_alone({24, 24, 500, 100, 0.05, true, true}, checkpoint, alone);
}

}  // namespace
}  // namespace qg::testing
