// A few shapes of every kernel family, small enough for tools that slow a program down a hundredfold
// (scripts/gpu_sanitize.sh runs these under compute-sanitizer). The full lists are in the other files here.
#include <gtest/gtest.h>

#include "model/architecture.h"
#include "quantize/recipe.h"
#include "quantize/synthetic_checkpoint.h"
#include "runtime/engine.h"
#include "runtime/make_executor.h"
#include "tests/gpu/attention_step.h"
#include "tests/gpu/gating_case.h"

namespace qg::testing {
namespace {

constexpr KernelFamily kFamilies[] = {KernelFamily::sm80, KernelFamily::sm89, KernelFamily::sm90a};

class ShortLinear : public ::testing::TestWithParam<test::Kind> {};

TEST_P(ShortLinear, EveryFamilyAndRoute) {
  const test::Kind kind = GetParam();
  const auto check = [&](KernelFamily family, std::optional<LinearRoute> route, std::initializer_list<int64_t> rows) {
    CudaLinearContext context(test::capabilities(family), 160, test::type_of(kind));
    context.state().wanted = route;
    test::Case c(kind, {144, 384, 128}, 160, context);
    c.expect_all();
    for (const int64_t m : rows) c.check(m);
  };
  check(KernelFamily::sm90a, {}, {1, 160});  // what runs
  check(KernelFamily::sm90a, LinearRoute::bulk, {3, 17});
  check(KernelFamily::sm90a, LinearRoute::wide, {33, 130});
  for (const KernelFamily family : kFamilies) check(family, LinearRoute::skinny, {5, 32});
}

// Hopper's kernel for many rows in every tile of a format that multiplies in a way of its own: tiles of one block or
// team, and shared ones.
TEST(Short, EveryWideKernel) {
  const std::pair<test::Kind, WideFormat> formats[] = {{test::Kind::f16, WideFormat::f16},
                                                       {test::Kind::fp8_static, WideFormat::e4m3},
                                                       {test::Kind::int8_static, WideFormat::int8},
                                                       {test::Kind::w4, WideFormat::w4},
                                                       {test::Kind::w4_zeros, WideFormat::w4_zeros}};
  for (const auto& [kind, format] : formats)
    for (int kernel = 0; kernel < wide_kernel_count(format); ++kernel) {
      CudaLinearContext context(test::capabilities(KernelFamily::sm90a), 310);
      context.state().wanted = LinearRoute::wide;
      context.state().wanted_wide = kernel;
      test::Case c(kind, {272, 4096, 128}, 300, context, {136, 136}, PartOrder::alternating);
      c.expect_at(test::spread(300, 23), test::spread(272, 67));
      for (const int64_t m : {70, 300}) {
        c.give_room(m, m + 10, 0xff);
        c.check(m);
        test::check_gating(c, m);
      }
    }
}

// A layer so wide that the library's sums are scaled piece by piece, of 640 rows: there is room behind the last piece,
// but not for its whole tile. What TMA reads, memcheck does not see, so the rows are reckoned too.
TEST(Short, SumsInPieces) {
  for (const test::Kind kind : {test::Kind::int8_dynamic, test::Kind::int8_static}) {
    CudaLinearContext context(test::capabilities(KernelFamily::sm80), 1010);
    test::Case c(kind, {22016, 64, 0}, 1000, context);
    c.expect_at(test::spread(1000, 21), test::spread(22016, 31));
    for (const int64_t m : {600, 640, 700, 1000}) {
      c.give_room(m, m + 10, 0xff);
      EXPECT_NE(c.layer().kernel_name(m).find("scale_sums"), std::string::npos) << c.layer().kernel_name(m);
      c.check(m);
      const LinearState& state = c.layer().state();
      const int64_t piece = rows_a_piece(state, LinearRoute::library_sums, m);
      EXPECT_EQ(piece, 640);
      for (int64_t first = 0; first < m; first += piece) {
        const int64_t rows = library_rows(state, first, std::min(piece, m - first));
        EXPECT_LE(first + rows, m + 10) << "m=" << m << " first=" << first;
        EXPECT_LE(rows, piece) << "m=" << m << " first=" << first;
      }
    }
  }
}

// Measuring a layer whose fastest tile has 192 rows: 512 are not a multiple of it. No kernel reads more rows than the
// buffers have.
TEST(Short, TuningWithRoom) {
  CudaLinearContext context(test::capabilities(KernelFamily::sm90a), 1024);
  context.set_tuning({}, true);
  test::Case c(test::Kind::w4, {5120, 5120, 128}, 512, context);
  c.layer().set_room(1024);
  EXPECT_NE(c.layer().kernel_name(512).find("x192"), std::string::npos) << c.layer().kernel_name(512);
  c.layer().tune(512);
  for (int kernel = 0; kernel < wide_kernel_count(WideFormat::w4); ++kernel)
    EXPECT_LE(read_rows(c.layer().state(), 512, wide_tile(WideFormat::w4, kernel).tokens),
              most_rows_read(c.layer().state(), 512));
}

INSTANTIATE_TEST_SUITE_P(All, ShortLinear, ::testing::ValuesIn(test::kKinds));

TEST(Short, Attention) {
  for (const KvFormat format : kKvFormats)
    for (const int64_t head_dim : {64, 128}) {
      const Step step(describe(format, 2, head_dim == 64 ? 3 : 4, head_dim, 64), {1, 65, 300}, {{20, 20}, {70, 150}});
      for (const KernelFamily family : kFamilies) expect_right(step, family, 512);
    }
}

// A tiny model through the engine: prefill in chunks, decoding with the append inside attention, graphs, sampling.
// Twice, for what must not change from run to run.
std::vector<int32_t> generate(WeightFormat weights, KvFormat kv, KernelFamily family, DType type) {
  ModelShape s;
  s.family = "llama";
  s.layers = 1, s.hidden = 256, s.heads = 4, s.kv_heads = 1, s.head_dim = 64, s.ffn = 512, s.vocab = 512;
  s.max_position = 512;
  const ModelTable table = make_model_table(s);
  QuantSpec quant;
  if (weights != WeightFormat::fp16) {
    quant = default_recipe(weights).spec({256, 512});
    quant.prequant_scales = false;
  }
  ExecutorOptions options;
  options.kv = kv;
  options.num_pages = 24;
  options.max_rows = 16;  // the library's algorithms are timed from 16 rows on: nothing of that here
  options.max_pieces = 4;
  CudaExecutorOptions cuda;
  cuda.family = family;
  cuda.dtype = type;
  EngineOptions engine_options;
  engine_options.max_batch = 4;
  engine_options.max_rows = 16;
  engine_options.prefill_chunk = 12;
  Engine engine(make_executor("cuda", make_synthetic_checkpoint(table, quant, {}), options, cuda), engine_options);
  for (int i = 0; i < 5; ++i) {
    Request request;
    for (int32_t t = 0; t < 10 + 13 * i; ++t) request.prompt.push_back((t * 37 + i) % 512);
    request.max_tokens = 4;
    request.ignore_stop = true;
    if (i % 2 == 1) {
      request.sampling.temperature = 0.8f;
      request.sampling.top_k = 20;
    }
    engine.add(request);
  }
  std::vector<int32_t> tokens;
  while (!engine.idle())
    engine.step([&](const TokenEvent& event) {
      if (event.token >= 0) tokens.push_back(event.token);
    });
  return tokens;
}

TEST(Short, EndToEnd) {
  const struct {
    WeightFormat weights;
    KvFormat kv;
    KernelFamily family;
    DType type = DType::f16;
  } runs[] = {{WeightFormat::fp16, KvFormat::fp16, KernelFamily::sm90a},
              {WeightFormat::fp16, KvFormat::fp8, KernelFamily::sm90a, DType::bf16},
              {WeightFormat::fp16, KvFormat::fp16, KernelFamily::sm80, DType::bf16},
              {WeightFormat::fp8, KvFormat::fp8, KernelFamily::sm90a},
              {WeightFormat::int4_awq, KvFormat::fp8, KernelFamily::sm80},
              {WeightFormat::int8_sq, KvFormat::int8, KernelFamily::sm80}};
  for (const auto& run : runs) {
    const std::vector<int32_t> first = generate(run.weights, run.kv, run.family, run.type);
    EXPECT_EQ(first.size(), 20u);
    EXPECT_EQ(first, generate(run.weights, run.kv, run.family, run.type))
        << to_string(run.weights) << ": two runs differ";
  }
}

}  // namespace
}  // namespace qg::testing
