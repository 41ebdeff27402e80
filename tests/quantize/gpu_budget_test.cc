// What quantizing on a GPU asks of the card, planned without one.
#include "quantize/gpu_budget.h"

#include <gtest/gtest.h>

#include <numeric>

#include "core/error.h"

namespace qg {
namespace {

ModelShape shape_of(int64_t layers, int64_t hidden, int64_t heads, int64_t kv_heads, int64_t ffn, int64_t vocab) {
  ModelShape s;
  s.layers = layers;
  s.hidden = hidden;
  s.heads = heads;
  s.kv_heads = kv_heads;
  s.head_dim = 128;
  s.ffn = ffn;
  s.vocab = vocab;
  return s;
}

GpuBudgetRequest request(const ModelShape& shape, int64_t sequences, int64_t tokens, double gigabytes) {
  GpuBudgetRequest r;
  r.shape = shape;
  r.weight_type = DType::bf16;
  r.lengths.assign(static_cast<size_t>(sequences), tokens);
  r.sampled = 1024;
  r.memory_bytes = static_cast<int64_t>(1e9 * gigabytes);
  return r;
}

const ModelShape kLlama3 = shape_of(28, 3072, 24, 8, 8192, 128256);
const ModelShape kLlama8 = shape_of(32, 4096, 32, 8, 14336, 128256);
const ModelShape kMistral = shape_of(32, 4096, 32, 8, 14336, 32768);

TEST(GpuBudget, TheThreeModelsFitACardOf24GigabytesAndLlama8TakesLessThan12) {
  for (const ModelShape& shape : {kLlama3, kLlama8, kMistral}) {
    const GpuBudget budget = plan_gpu_budget(request(shape, 128, 512, 22));
    EXPECT_LT(budget.total_bytes(), 12e9) << shape.hidden;
    EXPECT_EQ(budget.chunk_tokens, 8192);
  }
}

TEST(GpuBudget, CountsTheResidualStreamAndTwoLayers) {
  const GpuBudget budget = plan_gpu_budget(request(kLlama8, 128, 512, 22));
  EXPECT_EQ(budget.residual_bytes, 65536LL * 4096 * 4);
  EXPECT_EQ(budget.layer_bytes, 3LL * 2 * (6144LL * 4096 + 4096LL * 4096 + 3LL * 14336 * 4096));
  const GpuBudget larger = plan_gpu_budget(request(kLlama8, 512, 512, 22));
  EXPECT_EQ(larger.residual_bytes, 4 * budget.residual_bytes);
  EXPECT_EQ(larger.layer_bytes, budget.layer_bytes);
  EXPECT_EQ(larger.search_bytes, budget.search_bytes);
}

TEST(GpuBudget, CutsSequencesIntoChunksThatFit) {
  GpuBudgetRequest r = request(kLlama8, 0, 0, 22);
  r.lengths = {5000, 3000, 200, 9000, 10};
  const GpuBudget budget = plan_gpu_budget(r);
  EXPECT_EQ(std::accumulate(budget.chunk_sequences.begin(), budget.chunk_sequences.end(), int64_t{0}), 5);
  size_t next = 0;
  for (const int64_t count : budget.chunk_sequences) {
    int64_t tokens = 0;
    for (int64_t i = 0; i < count; ++i) tokens += r.lengths[next++];
    EXPECT_LE(tokens, 9000);
  }
}

TEST(GpuBudget, TakesSmallerChunksWhereLargeOnesDoNotFit) {
  const int64_t whole = plan_gpu_budget(request(kLlama8, 128, 512, 22)).total_bytes();
  const GpuBudget tight = plan_gpu_budget(request(kLlama8, 128, 512, 1e-9 * static_cast<double>(whole) - 0.5));
  EXPECT_LT(tight.chunk_tokens, 8192);
  EXPECT_GE(tight.chunk_tokens, 512);
  EXPECT_LE(tight.total_bytes(), whole - 500'000'000);
}

TEST(GpuBudget, RefusesWithTheWholeBudget) {
  try {
    plan_gpu_budget(request(kLlama8, 128, 512, 3));
    FAIL();
  } catch (const Error& e) {
    EXPECT_EQ(e.code(), ExitCode::cannot_here);
    const std::string text = e.what();
    for (const char* part : {"3.00 GB", "residual stream", "two layers", "search", "--calib-sequences"})
      EXPECT_NE(text.find(part), std::string::npos) << text;
  }
}

TEST(GpuBudget, NeedsLessWithoutErrorFeedbackAndForTheCacheAlone) {
  GpuBudgetRequest r = request(kLlama8, 128, 512, 22);
  const int64_t whole = plan_gpu_budget(r).total_bytes();
  r.feedback = false;
  const int64_t plain = plan_gpu_budget(r).total_bytes();
  EXPECT_LT(plain, whole - 14336LL * 14336 * 8);  // two matrices as wide as the widest input
  r.quantizes = false;
  EXPECT_LT(plan_gpu_budget(r).total_bytes(), plain);
}

}  // namespace
}  // namespace qg
