// The CPU executor against transformers (golden logits), against itself cut up in every way, and on the real model.
#include "runtime/cpu_executor.h"

#include <gtest/gtest.h>

#include <map>

#include "core/error.h"
#include "core/parallel.h"
#include "runtime/cpu_layer.h"
#include "tests/runtime/cpu_models.h"

namespace qg {
namespace {

using namespace test;

class GoldenModel : public testing::TestWithParam<std::string> {};
INSTANTIATE_TEST_SUITE_P(All, GoldenModel, testing::ValuesIn(golden_model_names()), [](const auto& model) {
  std::string name = model.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

TEST_P(GoldenModel, LogitsEqualThoseOfTransformers) {
  const Golden golden = read_golden(GetParam());
  EXPECT_LT(relative_error(run_dense(golden_models() / GetParam(), golden.tokens), golden.logits), 1e-5);
}

// The executor's cache rounds K and V to fp16: 2^-11 each, which the logits of these models show as at most 1e-3.
// Beyond that nothing may differ: the same rounding without a cache gives the same bits.
TEST_P(GoldenModel, ExecutorDiffersByTheRoundingOfItsCacheOnly) {
  const Golden golden = read_golden(GetParam());
  const auto executor = make_executor(golden_models() / GetParam());
  const std::vector<float> logits = run_chunked(*executor, golden.tokens, 1000);
  EXPECT_LT(relative_error(logits, golden.logits), 1e-3);
  EXPECT_EQ(logits, run_dense(golden_models() / GetParam(), golden.tokens, KvFormat::fp16));
}

TEST_P(GoldenModel, ChunksAndDecodingGiveTheSameBits) {
  const Golden golden = read_golden(GetParam());
  for (const KvFormat kv : {KvFormat::fp16, KvFormat::fp8}) {
    const auto executor = make_executor(golden_models() / GetParam(), kv);
    const std::vector<float> whole = run_chunked(*executor, golden.tokens, 1000);
    for (const int64_t chunk : {1, 7, 16}) EXPECT_EQ(run_chunked(*executor, golden.tokens, chunk), whole) << chunk;
  }
}

constexpr const char* kSmall = "llama-gqa3-tied-fp16";

// Two sequences in one step, one of them reusing the other's first page, give what each gives alone.
TEST(CpuExecutor, BatchesAndSharedPagesGiveTheSameBits) {
  const Golden golden = read_golden(kSmall);
  const auto executor = make_executor(golden_models() / kSmall);
  const int64_t vocab = executor->table().shape.vocab;
  const std::vector<int32_t>& first = golden.tokens;
  std::vector<int32_t> second(first.begin(), first.begin() + 16);
  second.insert(second.end(), {5, 9, 3, 11});
  const std::vector<float> first_alone = run_chunked(*executor, first, 1000);
  const std::vector<float> second_alone = run_chunked(*executor, second, 1000);

  const std::vector<int32_t> first_pages{3, 1, 4}, second_pages{3, 5};
  StepOutput output;
  StepInput input;
  std::vector<SequencePiece> pieces(1);
  pieces[0].num_tokens = 20;
  pieces[0].pages = first_pages;
  input.tokens = std::span(first).first(20);
  input.pieces = pieces;
  executor->step(input, output);

  std::vector<int32_t> tokens(first.begin() + 20, first.end());
  tokens.insert(tokens.end(), second.begin() + 16, second.end());
  const int64_t rest = static_cast<int64_t>(first.size()) - 20;
  pieces.resize(2);
  pieces[0] = {};
  pieces[0].num_tokens = rest;
  pieces[0].context_tokens = 20;
  pieces[0].pages = first_pages;
  pieces[1].first_row = rest;
  pieces[1].num_tokens = 4;
  pieces[1].context_tokens = 16;
  pieces[1].pages = second_pages;
  pieces[1].sample = true;
  input.tokens = tokens;
  input.pieces = pieces;
  input.logits = LogitsWanted::all;
  executor->step(input, output);
  EXPECT_TRUE(
      std::equal(output.logits.begin(), output.logits.begin() + rest * vocab, first_alone.begin() + 20 * vocab));
  EXPECT_TRUE(std::equal(output.logits.begin() + rest * vocab, output.logits.end(), second_alone.begin() + 16 * vocab));
  EXPECT_EQ(output.sampled[0], -1);
  const auto last = second_alone.end() - vocab;
  EXPECT_EQ(output.sampled[1], std::max_element(last, second_alone.end()) - last);
}

TEST(CpuExecutor, LogitsWantedChoosesTheRowsNotTheTokens) {
  const Golden golden = read_golden(kSmall);
  const auto executor = make_executor(golden_models() / kSmall);
  const size_t vocab = static_cast<size_t>(executor->table().shape.vocab);
  const std::vector<int32_t> pages{0, 1, 2};
  std::map<LogitsWanted, StepOutput> outputs;
  for (const LogitsWanted wanted : {LogitsWanted::none, LogitsWanted::sampled, LogitsWanted::all}) {
    SequencePiece piece;
    piece.num_tokens = static_cast<int64_t>(golden.tokens.size());
    piece.pages = pages;
    piece.sample = true;
    StepInput input;
    input.tokens = golden.tokens;
    input.pieces = {&piece, 1};
    input.logits = wanted;
    executor->step(input, outputs[wanted]);
  }
  EXPECT_TRUE(outputs[LogitsWanted::none].logits.empty());
  const std::vector<float>& all = outputs[LogitsWanted::all].logits;
  ASSERT_EQ(all.size(), golden.tokens.size() * vocab);
  EXPECT_EQ(outputs[LogitsWanted::sampled].logits,
            std::vector<float>(all.end() - static_cast<int64_t>(vocab), all.end()));
  EXPECT_EQ(outputs[LogitsWanted::none].sampled, outputs[LogitsWanted::all].sampled);
  EXPECT_EQ(outputs[LogitsWanted::sampled].sampled, outputs[LogitsWanted::all].sampled);
}

TEST(CpuExecutor, CopiedPagesHoldTheSameTokens) {
  const Golden golden = read_golden(kSmall);
  const auto executor = make_executor(golden_models() / kSmall);
  const std::vector<float> whole = run_chunked(*executor, golden.tokens, 1000);  // uses pages 31, 30, 29
  executor->copy_page(31, 7);
  executor->copy_page(30, 2);
  const std::vector<int32_t> pages{7, 2, 29};
  const int64_t last = static_cast<int64_t>(golden.tokens.size()) - 1;
  SequencePiece piece;
  piece.num_tokens = 1;
  piece.context_tokens = last;
  piece.pages = pages;
  StepInput input;
  input.tokens = std::span(golden.tokens).last(1);
  input.pieces = {&piece, 1};
  input.logits = LogitsWanted::all;
  StepOutput output;
  executor->step(input, output);
  EXPECT_TRUE(std::equal(output.logits.begin(), output.logits.end(), whole.end() - executor->table().shape.vocab));
}

TEST(CpuExecutor, TapsYieldEveryIntermediateOnceALayer) {
  const Golden golden = read_golden(kSmall);
  const auto executor = make_executor(golden_models() / kSmall);
  const ModelShape& s = executor->table().shape;
  std::map<std::string, int64_t> widths;
  executor->set_tap([&](const std::string& name, std::span<const float> values, int64_t rows, int64_t width) {
    EXPECT_EQ(static_cast<int64_t>(values.size()), rows * width) << name;
    EXPECT_EQ(rows, static_cast<int64_t>(golden.tokens.size())) << name;
    EXPECT_TRUE(widths.emplace(name, width).second) << name << " came twice";
  });
  run_chunked(*executor, golden.tokens, 1000);
  std::map<std::string, int64_t> wanted{{"embedding", s.hidden}, {"final_norm", s.hidden}, {"logits", s.vocab}};
  for (int64_t i = 0; i < s.layers; ++i) {
    const std::string layer = "layers." + std::to_string(i) + ".";
    wanted.insert({{layer + "attention_in", s.hidden},
                   {layer + "q", s.q_rows()},
                   {layer + "k", s.kv_rows()},
                   {layer + "v", s.kv_rows()},
                   {layer + "attention_out", s.q_rows()},
                   {layer + "mlp_in", s.hidden},
                   {layer + "mlp_act", s.ffn},
                   {layer + "out", s.hidden}});
  }
  EXPECT_EQ(widths, wanted);
}

// transformers' own intermediates of the traced models.
TEST(CpuExecutor, IntermediatesEqualThoseOfTransformers) {
  const std::map<std::string, std::string> names{{"input_layernorm", "attention_in"},
                                                 {"post_attention_layernorm", "mlp_in"}};
  for (const std::string model : {"llama-gqa1-tied-fp32", "mistral-window16-bf16"}) {
    const auto checkpoint = open_model(golden_models() / model);
    const ModelShape& s = checkpoint->table().shape;
    const Golden golden = read_golden(model);
    const SafetensorsFile file(golden_models() / model / "golden.safetensors");
    std::vector<float> hidden(golden.tokens.size() * static_cast<size_t>(s.hidden));
    embed_tokens(*checkpoint, golden.tokens, hidden.data());
    int compared = 0;
    for (int layer = 0; layer < s.layers; ++layer) {
      const std::string prefix = "layers." + std::to_string(layer);
      const std::map<std::string, std::string> stored{{prefix + ".attention_in", prefix + ".input_layernorm"},
                                                      {prefix + ".mlp_in", prefix + ".post_attention_layernorm"},
                                                      {prefix + ".out", prefix}};
      const auto compare = [&](const std::string& name, std::span<const float> values, int64_t, int64_t) {
        const auto found = stored.find(name);
        if (found == stored.end()) return;
        const StoredTensor* tensor = file.find(found->second);
        ASSERT_NE(tensor, nullptr) << found->second;
        EXPECT_LT(relative_error({values.begin(), values.end()}, to_f32(file.view(*tensor))), 1e-5) << name;
        ++compared;
      };
      run_layer(s, load_cpu_layer(*checkpoint, layer), layer,
                std::vector<int64_t>{static_cast<int64_t>(golden.tokens.size())}, hidden.data(), compare);
    }
    EXPECT_EQ(compared, 3 * s.layers);
  }
}

TEST(CpuExecutor, NamesWhatRan) {
  const auto executor = make_executor(golden_models() / kSmall, KvFormat::fp8);
  EXPECT_TRUE(executor->kernels().empty());
  run_chunked(*executor, {1, 2, 3}, 3);
  EXPECT_EQ(executor->kernels(), (std::vector<std::string>{"cpu_reference_attention_kv_fp8", "cpu_reference_w16a16"}));
  EXPECT_EQ(executor->compute_path(), ComputePath::w16a16);
  EXPECT_EQ(executor->kv_format(), KvFormat::fp8);
  EXPECT_GT(executor->weight_bytes(), 100'000);
}

TEST(CpuExecutor, RefusesWhatItCannotDo) {
  EXPECT_THROW(make_executor(golden_models() / kSmall, KvFormat::int8), Error) << "int8 without calibrated scales";
  const auto executor = make_executor(golden_models() / kSmall, KvFormat::fp16, 2);
  const int32_t vocab = static_cast<int32_t>(executor->table().shape.vocab);
  EXPECT_THROW(run_chunked(*executor, {vocab}, 1), Error);
  EXPECT_THROW(run_chunked(*executor, {-1}, 1), Error);
  EXPECT_THROW(run_chunked(*executor, std::vector<int32_t>(33, 1), 33), Error) << "more tokens than the pages hold";
  EXPECT_THROW(executor->copy_page(0, 2), Error);
}

// SmolLM2-135M-Instruct (make model): knows the capital of France, and cut up differently computes the same bits.
TEST(CpuExecutor, SmolLm2ContinuesAFactInTheSameBitsHoweverItIsCut) {
  const std::filesystem::path folder = std::filesystem::path(QG_SOURCE_DIR) / "models" / "smollm2-135m-instruct";
  ASSERT_TRUE(std::filesystem::exists(folder / "config.json")) << "run `make model` first";
  const std::vector<int32_t> prompt{504, 3575, 282, 4649, 314};  // "The capital of France is"
  const auto executor = make_executor(folder);
  const std::vector<float> whole = run_chunked(*executor, prompt, 5), by_one = run_chunked(*executor, prompt, 1);
  EXPECT_EQ(whole, by_one);
  const auto last = whole.end() - executor->table().shape.vocab;
  EXPECT_EQ(std::max_element(last, whole.end()) - last, 7042);  // " Paris"
}

}  // namespace
}  // namespace qg
