// Bytes, rooflines and the serial model against published and hand-computed values.
#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "grid/estimate.h"
#include "grid/memory.h"
#include "grid/models.h"
#include "grid/roofline.h"

namespace qg {
namespace {

const ModelShape& shape(const char* model) {
  return find_known_model(model)->shape;
}

void expect_near_share(double actual, double expected, double share, const std::string& what) {
  EXPECT_NEAR(actual, expected, share * expected) << what;
}

TEST(Memory, KvBytesPerToken) {
  EXPECT_EQ(kv_bytes_per_token(shape("llama-3.2-3b"), KvFormat::fp16), 114688);
  EXPECT_EQ(kv_bytes_per_token(shape("llama-3.2-3b"), KvFormat::fp8), 57344);
  EXPECT_EQ(kv_bytes_per_token(shape("llama-3.1-8b"), KvFormat::fp16), 131072);
  EXPECT_EQ(kv_bytes_per_token(shape("mistral-7b"), KvFormat::int8), 65536);
}

// Weights in GB as stored: FP16, 8-bit, 4-bit.
TEST(Memory, WeightsOfTheModels) {
  const struct {
    const char* model;
    double fp16, eight_bit, int4;
  } rows[] = {
      {"llama-3.2-3b", 6.43, 3.61, 2.25}, {"llama-3.1-8b", 16.06, 9.08, 5.73}, {"mistral-7b", 14.50, 7.52, 4.16}};
  for (const auto& row : rows) {
    const auto gb = [&](WeightFormat w) {
      return static_cast<double>(weights_bytes(shape(row.model), w, TiedEmbedding::once)) / 1e9;
    };
    expect_near_share(gb(WeightFormat::fp16), row.fp16, 0.002, row.model);
    expect_near_share(gb(WeightFormat::fp8), row.eight_bit, 0.002, row.model);
    expect_near_share(gb(WeightFormat::int8_sq), row.eight_bit, 0.003, row.model);
    // The published 4-bit figures count a zero point that the symmetric format does not have.
    expect_near_share(gb(WeightFormat::int4_awq), row.int4, 0.006, row.model);
  }
}

// Hand count for a model small enough: 1 layer, hidden 64, 2 heads of 32, 1 KV head, ffn 128, vocabulary 100.
TEST(Memory, WeightsCountedByHand) {
  ModelShape s{.family = "llama",
               .layers = 1,
               .hidden = 64,
               .heads = 2,
               .kv_heads = 1,
               .head_dim = 32,
               .ffn = 128,
               .vocab = 100,
               .tied_embeddings = true,
               .rope_scaling = {},
               .sliding_window = {}};
  const int64_t linear = 128 * 64 + 64 * 64 + 2 * 128 * 64 + 64 * 128;  // 36,864
  const int64_t rest = 2 * 100 * 64 + 2 * 3 * 64;
  EXPECT_EQ(weights_bytes(s, WeightFormat::fp16, TiedEmbedding::once), 2 * linear + rest);
  EXPECT_EQ(weights_bytes(s, WeightFormat::fp8, TiedEmbedding::once), linear + 5 * 8 + rest);
  // Groups of 64, an FP16 scale each; an FP16 scale per input.
  const int64_t inputs = 64 + 64 + 64 + 64 + 128, outputs = 128 + 64 + 128 + 128 + 64;
  EXPECT_EQ(weights_bytes(s, WeightFormat::int4_awq, TiedEmbedding::once),
            linear / 2 + linear / 64 * 2 + 2 * inputs + rest);
  EXPECT_EQ(checkpoint_disk_bytes(s, WeightFormat::int4_awq), linear / 2 + linear / 64 * 4 + 2 * inputs + rest);
  EXPECT_EQ(weights_bytes(s, WeightFormat::int8_sq, TiedEmbedding::once), linear + 4 * outputs + 4 * inputs + rest);
  EXPECT_EQ(weights_bytes(s, WeightFormat::fp16, TiedEmbedding::twice), 2 * linear + rest + 2 * 100 * 64);
  s.tied_embeddings = false;
  for (const TiedEmbedding tied : {TiedEmbedding::once, TiedEmbedding::twice})
    EXPECT_EQ(weights_bytes(s, WeightFormat::fp16, tied), 2 * linear + rest + 2 * 100 * 64);
}

TEST(Memory, GreatestBatchIsTheLastThatFits) {
  const ModelShape& s = shape("llama-3.1-8b");
  const Card& card = *find_card("a10");
  const int64_t batch = max_batch(s, card, WeightFormat::int4_awq, KvFormat::fp8, 4096, TiedEmbedding::once);
  const double space =
      0.92 * 24.1e9 - 1.2e9 - static_cast<double>(weights_bytes(s, WeightFormat::int4_awq, TiedEmbedding::once));
  EXPECT_LE(static_cast<double>(batch) * 4096 * 65536, space);
  EXPECT_GT(static_cast<double>(batch + 1) * 4096 * 65536, space);
  EXPECT_EQ(batch, 56);
  // FP16 on 24 GB: 4.9 GB are left, 37 thousand tokens of FP16 KV.
  EXPECT_EQ(max_batch(s, card, WeightFormat::fp16, KvFormat::fp16, 37000, TiedEmbedding::once), 1);
  EXPECT_EQ(max_batch(s, card, WeightFormat::fp16, KvFormat::fp16, 38000, TiedEmbedding::once), 0);
  Card small = card;
  small.memory_bytes = 8'000'000'000;
  EXPECT_LT(kv_space_bytes(s, small, WeightFormat::fp16, TiedEmbedding::once), 0);
  EXPECT_EQ(max_batch(s, small, WeightFormat::fp16, KvFormat::fp16, 1, TiedEmbedding::once), 0);
  EXPECT_THROW(max_batch(s, *find_card("cpu"), WeightFormat::fp16, KvFormat::fp16, 4096, TiedEmbedding::once), Error);
}

// Planning figures computed apart from this program from the formulas in docs/grid.md: tokens/s at batch 1 with 512
// tokens of KV (16-bit beside FP16 weights, else 8-bit), ridge, data-sheet prefill, and the serial model at 128/128,
// 1000/1000 and 2048/128 with the batch that reaches 95 % of it.
struct PublishedRow {
  const char* model;
  const char* card;
  WeightFormat weights;
  double batch1, ridge, prefill, t128, t1000, t2048;
  int64_t batch1000;
};
constexpr PublishedRow kPublished[] = {
    {"llama-3.2-3b", "a100", WeightFormat::fp16, 314, 153, 55300, 16600, 7039, 1926, 106},
    {"llama-3.2-3b", "a100", WeightFormat::fp8, 561, 86, 55300, 17600, 10200, 2112, 61},
    {"llama-3.2-3b", "a10", WeightFormat::int8_sq, 165, 234, 44300, 9105, 3840, 1053, 120},
    {"llama-3.2-3b", "l4", WeightFormat::fp8, 83, 453, 42900, 7072, 2271, 769, 150},
    {"llama-3.2-3b", "l40", WeightFormat::int4_awq, 379, 73, 32100, 9521, 4910, 1130, 51},
    {"llama-3.1-8b", "a100", WeightFormat::int4_awq, 433, 48, 22400, 7518, 5564, 898, 35},
    {"llama-3.1-8b", "a10", WeightFormat::fp16, 40, 208, 8955, 2119, 539, 179, 23},
    {"llama-3.1-8b", "h100", WeightFormat::fp16, 222, 295, 70900, 21800, 9735, 2478, 201},
    {"llama-3.1-8b", "h100", WeightFormat::fp8, 416, 316, 141800, 38900, 18500, 4484, 191},
    {"mistral-7b", "h100", WeightFormat::int4_awq, 853, 81, 70900, 22800, 13800, 2627, 55},
    {"mistral-7b", "l4", WeightFormat::fp16, 21, 403, 8668, 1782, 376, 141, 30},
    {"mistral-7b", "a100", WeightFormat::int8_sq, 280, 156, 44700, 13100, 8126, 1513, 96},
};

TEST(Roofline, PublishedTable) {
  for (const PublishedRow& row : kPublished) {
    const ModelShape& s = shape(row.model);
    const Card& card = *find_card(row.card);
    const KvFormat kv = row.weights == WeightFormat::fp16 ? KvFormat::fp16 : KvFormat::fp8;
    const std::string what = std::string(row.model) + " " + row.card + " " + std::string(to_string(row.weights));
    // Tables print three digits; the 4-bit rows there count half a percent more bytes.
    expect_near_share(*decode_tok_s(s, card, row.weights, kv, 1, kRooflineContextTokens), row.batch1, 0.02, what);
    expect_near_share(*ridge_batch(s, card, row.weights), row.ridge, 0.015, what);
    expect_near_share(*prefill_tok_s(s, card, row.weights), row.prefill, 0.005, what);
    expect_near_share(serial_throughput(s, card, row.weights, kv, 128, 128)->output_tok_s, row.t128, 0.006, what);
    expect_near_share(serial_throughput(s, card, row.weights, kv, 2048, 128)->output_tok_s, row.t2048, 0.006, what);
    const Throughput t = *serial_throughput(s, card, row.weights, kv, 1000, 1000);
    expect_near_share(t.output_tok_s, row.t1000, 0.006, what);
    EXPECT_NEAR(static_cast<double>(t.batch), static_cast<double>(row.batch1000), 1.0) << what;
  }
}

TEST(Roofline, VariantsOfBoards) {
  const ModelShape& s = shape("llama-3.1-8b");
  const auto t = [&](const char* card, WeightFormat w) {
    return serial_throughput(s, *find_card(card), w, w == WeightFormat::fp16 ? KvFormat::fp16 : KvFormat::fp8, 1000,
                             1000)
        ->output_tok_s;
  };
  expect_near_share(t("a100-40g", WeightFormat::fp16), 3423, 0.006, "a100-40g");
  expect_near_share(t("l40s", WeightFormat::fp8), 5124, 0.006, "l40s");
  expect_near_share(t("h100-pcie", WeightFormat::fp8), 11600, 0.02, "h100-pcie");  // its bandwidth is given as a range
  expect_near_share(t("h200", WeightFormat::int8_sq), 22600, 0.006, "h200");
  expect_near_share(t("a100-pcie", WeightFormat::int4_awq), 5235, 0.006, "a100-pcie");
}

TEST(Roofline, LargeBatchesAreBoundByArithmetic) {
  const ModelShape& s = shape("llama-3.1-8b");
  const Card& card = *find_card("h100");
  const double ridge = *ridge_batch(s, card, WeightFormat::fp8);
  const auto tok_s = [&](double b) {
    return *decode_tok_s(s, card, WeightFormat::fp8, KvFormat::fp8, static_cast<int64_t>(b), 0);
  };
  EXPECT_NEAR(tok_s(ridge / 2) / tok_s(ridge / 4), 2, 0.02);
  EXPECT_NEAR(tok_s(4 * ridge) / tok_s(2 * ridge), 1, 1e-6);
  EXPECT_FALSE(decode_tok_s(s, *find_card("cpu"), WeightFormat::fp16, KvFormat::fp16, 1, 512));
}

// Llama-3.1-8B in FP8 on an H100, by hand: 8.03e9 bytes of weights, 64 sequences of 1,500 tokens at 65,536 bytes each,
// 3,352 GB/s; a prompt token is 2 x 6.979e9 operations at 1,979 TFLOP/s.
TEST(Roofline, ALoadIsDecodingPlusItsPromptsShareOfPrefill) {
  const ModelShape& s = shape("llama-3.1-8b");
  const Card& card = *find_card("h100");
  const double step_s = (8.03e9 + 64 * 1500 * 65536.0) / 3352e9, prompt_s = 2 * 6.979e9 / 1979e12;
  const auto limit = [&](int64_t isl, int64_t osl) {
    return load_tok_s(s, card, WeightFormat::fp8, KvFormat::fp8, 64, isl, osl);
  };
  expect_near_share(*limit(1000, 1000), 1 / (step_s / 64 + prompt_s), 0.005, "1000/1000");
  expect_near_share(*limit(1250, 500), 1 / (step_s / 64 + 2.5 * prompt_s), 0.005, "1250/500");
  EXPECT_FALSE(load_tok_s(s, *find_card("cpu"), WeightFormat::fp16, KvFormat::fp16, 1, 128, 128));
  EXPECT_FALSE(load_tok_s(s, card, WeightFormat::fp16, KvFormat::fp16, 0, 128, 128));
}

TEST(Roofline, NothingFitsIsZeroNotAnError) {
  Card small = *find_card("a10");
  small.memory_bytes = 8'000'000'000;
  const auto t = serial_throughput(shape("llama-3.1-8b"), small, WeightFormat::fp16, KvFormat::fp16, 1000, 1000);
  ASSERT_TRUE(t);
  EXPECT_EQ(t->output_tok_s, 0);
  EXPECT_EQ(t->batch, 0);
}

TEST(Estimate, OrdersOfMagnitude) {
  const Grid grid = load_grid(std::filesystem::path(QG_SOURCE_DIR) / "grids/trt-llm-45.toml");
  const ModelShape& s = shape("llama-3.1-8b");
  const Card& h100 = *find_card("h100");
  EXPECT_EQ(quantize_seconds(s, h100, WeightFormat::fp16, grid.calibration), 0);
  const double fp8 = quantize_seconds(s, h100, WeightFormat::fp8, grid.calibration);
  EXPECT_GT(fp8, 20);  // 25 GB of files alone
  EXPECT_LT(fp8, 300);
  EXPECT_GT(quantize_seconds(s, h100, WeightFormat::int4_awq, grid.calibration), fp8 - 5);
  const double quick = run_seconds(s, h100, WeightFormat::fp8, KvFormat::fp8, grid, Profile::quick);
  EXPECT_LT(quick, 180);  // three minutes a case
  Grid speed_only = grid;
  speed_only.accuracy.text.clear();
  const double accuracy = quick - run_seconds(s, h100, WeightFormat::fp8, KvFormat::fp8, speed_only, Profile::quick);
  EXPECT_NEAR(accuracy, 2 * 8192 * 15.0e9 / (0.5 * 0.78 * 989e12), 0.1);  // two passes over 8 windows of 1024
  EXPECT_GT(run_seconds(s, h100, WeightFormat::fp8, KvFormat::fp8, grid, Profile::full), 3 * quick);
}

// Arrivals take their time whatever the card can do: 480 and 48 of the warm-up at 8 a second.
TEST(Estimate, ALoadAtARateTakesAsLongAsItsArrivals) {
  Grid grid;
  const ModelShape& s = find_known_model("llama-3.1-8b")->shape;
  const auto seconds = [&] {
    return run_seconds(s, *find_card("h100"), WeightFormat::fp8, KvFormat::fp8, grid, Profile::quick);
  };
  const double nothing = seconds();
  grid.workloads.push_back({"rate/8", WorkloadKind::rate, 1024, 128, 1, 480, 1, Profile::quick, 8, 1, 0, 0, 42});
  EXPECT_GT(seconds() - nothing, 66);
  EXPECT_LT(seconds() - nothing, 70);
}

}  // namespace
}  // namespace qg
