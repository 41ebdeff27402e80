// The CPU executor against transformers (golden logits), against itself cut up in every way, and on the real model.
#include "runtime/cpu_executor.h"

#include <gtest/gtest.h>

#include <unistd.h>

#include <map>

#include "checkpoint/kv_scales.h"
#include "core/error.h"
#include "core/parallel.h"
#include "core/rng.h"
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

// Keys and queries of every model through random invertible matrices.
KvScales random_shaping(const ModelShape& shape) {
  KvScales scales;
  const int64_t n = shape.head_dim;
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    scales.fp8.push_back({0.02f, 0.02f});
    scales.int8.push_back({0.05f, 0.05f});
    KvShaping shaping;
    shaping.fp8_k_scale = 0.02f;
    shaping.int8_k_scale = 0.05f;
    const Rng rng(17, static_cast<uint64_t>(layer));
    for (int64_t i = 0; i < shape.kv_rows(); ++i)
      shaping.k_center.push_back(0.25f * static_cast<float>(rng.below(static_cast<uint64_t>(i), 8)) - 1.0f);
    // An upper triangle of small steps and its transposed inverse, exact in F16: 1 + e next to the diagonal.
    for (int64_t row = 0; row < shape.kv_rows(); ++row) {
      for (int64_t column = 0; column < n; ++column) {
        const bool same = column == row % n, next = column == row % n + 1 && row % 2 == 0;
        const bool back = row % n == column + 1 && column % 2 == 0;
        shaping.k_transform.push_back(same ? 1.0f : next ? 0.5f : 0.0f);
        shaping.q_transform.push_back(same ? 1.0f : back ? -0.5f : 0.0f);
        shaping.k_feedback.push_back(column > row % n ? 0.125f : 0.0f);
      }
    }
    scales.shaping.push_back(std::move(shaping));
  }
  return scales;
}

// With shaped keys too, a token's bytes do not depend on the step it came in, and the executor does what run_layer
// does.
TEST_P(GoldenModel, ShapedKeysGiveTheSameBitsHoweverTheWorkIsCut) {
  const Golden golden = read_golden(GetParam());
  const std::shared_ptr<const Checkpoint> plain = open_model(golden_models() / GetParam());
  const ModelShape& shape = plain->table().shape;
  const auto file =
      std::filesystem::temp_directory_path() / ("quantgrid-shaped-" + std::to_string(getpid()) + GetParam());
  write_kv_scales_file(file, random_shaping(shape), shape, "");
  const auto checkpoint = with_kv_scales(plain, file);
  std::filesystem::remove(file);
  for (const KvFormat kv : {KvFormat::fp8, KvFormat::int8}) {
    ExecutorOptions options;
    options.kv = kv;
    options.num_pages = 32;
    const auto executor = make_cpu_executor(checkpoint, options);
    const std::vector<float> whole = run_chunked(*executor, golden.tokens, 1000);
    for (const int64_t chunk : {1, 7}) EXPECT_EQ(run_chunked(*executor, golden.tokens, chunk), whole) << chunk;
    const double error = relative_error(whole, golden.logits);
    EXPECT_LT(error, 0.3) << to_string(kv);  // coarse scales; queries that are not shaped give more than 1
    EXPECT_GT(error, 1e-5);

    const std::vector<KvLayerStorage> storage = kv_storage_for(*checkpoint, kv);
    const int64_t m = static_cast<int64_t>(golden.tokens.size());
    std::vector<float> hidden(static_cast<size_t>(m * shape.hidden)), logits(static_cast<size_t>(m * shape.vocab));
    embed_tokens(*checkpoint, golden.tokens, hidden.data());
    for (int layer = 0; layer < shape.layers; ++layer)
      run_layer(shape, load_cpu_layer(*checkpoint, layer), layer, std::vector<int64_t>{m}, hidden.data(), {}, kv,
                storage[static_cast<size_t>(layer)]);
    run_head(shape, load_cpu_head(*checkpoint), hidden.data(), m, logits.data());
    EXPECT_EQ(logits, whole) << to_string(kv);
  }
  EXPECT_EQ(kv_storage_for(*checkpoint, KvFormat::fp16).front().shaping, nullptr);
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
