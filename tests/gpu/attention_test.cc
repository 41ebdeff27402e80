// Paged attention on the GPU against the CPU reference (attention_step.h says how).
#include <gtest/gtest.h>

#include "kernels/attention/cuda_choice.h"
#include "tests/gpu/attention_step.h"

namespace qg::testing {
namespace {

const std::vector<int64_t> kDecodeTokens{1, 2, 15, 16, 17, 63, 64, 65, 127, 128, 129, 1000, 4097};
const std::vector<StepPiece> kPrefill{{1, 1},    {2, 2},     {15, 18},   {16, 16},    {17, 81},   {63, 64},   {64, 64},
                                      {65, 128}, {127, 256}, {128, 128}, {129, 1129}, {300, 300}, {100, 4097}};

class AttentionForms : public ::testing::TestWithParam<std::tuple<KvFormat, int64_t, int64_t>> {};

TEST_P(AttentionForms, MatchTheReference) {
  const auto [format, head_dim, group] = GetParam();
  for (const int64_t page_tokens : {16, 32, 64}) {
    const Step step(describe(format, 2, group, head_dim, page_tokens), kDecodeTokens, kPrefill);
    expect_right(step, KernelFamily::sm80, 4097);
    if (format == KvFormat::fp8 && page_tokens == 64) expect_right(step, KernelFamily::sm89, 4097);
    if (page_tokens == 64) expect_right(step, KernelFamily::sm90a, 8192);
  }
}

INSTANTIATE_TEST_SUITE_P(All, AttentionForms,
                         ::testing::Combine(::testing::Values(KvFormat::fp16, KvFormat::fp8, KvFormat::int8),
                                            ::testing::Values(64, 128), ::testing::Values(1, 3, 4, 8)));

TEST(Attention, SlidingWindow) {
  for (const KvFormat format : {KvFormat::fp16, KvFormat::fp8, KvFormat::int8}) {
    for (const int64_t window : {1, 17, 64, 100, 1000}) {
      AttentionDesc desc = describe(format, 2, 4, 128, 16);
      desc.sliding_window = window;
      const Step step(desc, kDecodeTokens, kPrefill);
      expect_right(step, KernelFamily::sm80, 4097);
      expect_right(step, KernelFamily::sm90a, 4097);
    }
  }
}

// One block a (piece, head): results go straight to the output; also more pieces than a warp has lanes.
TEST(Attention, ManyPiecesAreNotSplit) {
  for (const KvFormat format : {KvFormat::fp16, KvFormat::fp8, KvFormat::int8}) {
    std::vector<int64_t> tokens;
    for (int64_t i = 0; i < 300; ++i) tokens.push_back(1 + mixed(static_cast<uint64_t>(i)) % 400);
    const Step step(describe(format, 8, 4, 128, 64), tokens, {});
    expect_right(step, KernelFamily::sm80, 400);
    expect_right(step, KernelFamily::sm90a, 1024);
  }
}

// Groups that fill more than one tile of heads, and groups that divide nothing.
TEST(Attention, OddGroups) {
  for (const int64_t group : {2, 5, 7, 12, 16}) {
    const Step step(describe(KvFormat::fp8, 1, group, 128, 32), kDecodeTokens, {{33, 70}, {200, 200}});
    expect_right(step, KernelFamily::sm80, 4097);
  }
}

TEST(Attention, PaddingPiecesGiveZeros) {
  const std::vector<int64_t> tokens{100, 0, 7, 0, 0};
  const Step step(describe(KvFormat::fp8, 2, 4, 128, 64), tokens, {});
  for (const KernelFamily family : {KernelFamily::sm80, KernelFamily::sm90a}) {
    const std::vector<float> got = from_half(step.run<uint16_t>(family, {}, 512));
    for (const int64_t row : {1, 3, 4})
      for (int64_t i = 0; i < step.width(); ++i)
        ASSERT_EQ(got[static_cast<size_t>(row * step.width() + i)], 0.0f) << where(step, static_cast<size_t>(i));
  }
}

// Prefill of an 8-bit cache whose f16 copy is too small: in several passes, and the largest pieces by another kernel.
TEST(Attention, SmallCopyOfTheCache) {
  for (const KvFormat format : {KvFormat::fp8, KvFormat::int8}) {
    const Step step(describe(format, 2, 4, 128, 64), {5, 700}, kPrefill);
    const std::vector<float> want = step.reference();
    for (const int64_t copy_bytes : {1 << 16, 1 << 19, 1 << 21}) {  // 1, 8 and 32 pages
      const std::vector<uint16_t> half = step.run<uint16_t>(KernelFamily::sm90a, {}, 1024, nullptr, copy_bytes);
      expect_close(step, from_half(half), want, [](float) { return 0.0f; });
    }
  }
}

TEST(Attention, DecodeSplits) {
  using attention::decode_splits;
  EXPECT_EQ(decode_splits(8, 264, 1150, 128), 8);     // one sequence: nearly as many as its length allows
  EXPECT_EQ(decode_splits(8, 264, 100000, 128), 29);  // and as fill 85 % of the card
  EXPECT_EQ(decode_splits(512, 264, 1150, 128), 1);   // two full waves
  EXPECT_EQ(decode_splits(2048, 264, 4096, 128), 1);
  EXPECT_EQ(decode_splits(8, 264, 1, 128), 1);
  for (int64_t units = 1; units < 3000; units += 7) {
    const int64_t splits = decode_splits(units, 264, 4096, 128);
    EXPECT_GE(splits, 1);
    EXPECT_TRUE(splits == 1 || splits * units <= attention::kMaxWaves * 264) << units;  // what the scratch is made for
  }
}

float decode_code(ActivationForm form, uint8_t code) {
  return form == ActivationForm::fp8 ? f32_from_e4m3(code) : static_cast<float>(static_cast<int8_t>(code));
}

// Quantized output: what a code stands for lies within half a step of the reference (and of the tolerance above).
TEST(Attention, QuantizedOutput) {
  for (const KvFormat format : {KvFormat::fp16, KvFormat::fp8}) {
    const Step step(describe(format, 2, 4, 128, 64), kDecodeTokens, kPrefill);
    const size_t width = static_cast<size_t>(step.width());
    const std::vector<float> prequant = normal_values(width, 5);
    const DeviceVector<float> device_prequant(prequant);
    std::vector<float> want = step.reference();
    for (size_t i = 0; i < want.size(); ++i) want[i] *= prequant[i % width];
    for (const KernelFamily family : {KernelFamily::sm80, KernelFamily::sm90a}) {
      for (const ActivationForm form : {ActivationForm::fp8, ActivationForm::int8}) {
        for (const bool per_token : {false, true}) {
          const float static_scale = form == ActivationForm::fp8 ? 0.02f : 0.1f;
          std::vector<float> scales;
          const std::vector<uint8_t> codes =
              step.run<uint8_t>(family, {form, per_token, static_scale, device_prequant.data()}, 4097, &scales);
          int wrong = 0;
          for (size_t i = 0; i < want.size() && wrong < 5; ++i) {
            const size_t row = i / width;
            const float scale = per_token ? scales[row] : static_scale;
            const float top = form == ActivationForm::fp8 ? 448.0f : 127.0f;
            if (per_token && i % width == 0) {
              float largest = 0;
              for (size_t c = 0; c < width; ++c) largest = std::max(largest, std::fabs(want[i + c]));
              EXPECT_NEAR(scale * top / largest, 1, 8 * kHalfError) << where(step, i) << ": scale of the row";
            }
            const float exact = std::clamp(want[i], -top * scale, top * scale);
            const float step_size = form == ActivationForm::fp8 ? std::max(std::fabs(exact) / 8, scale / 512) : scale;
            const float got = decode_code(form, codes[i]) * scale;
            const float tolerance = 0.51f * step_size + kHalfError * 20 * std::fabs(prequant[i % width]);
            if (!(std::fabs(got - exact) <= tolerance) && ++wrong <= 5)
              ADD_FAILURE() << where(step, i) << ": form " << static_cast<int>(form) << " per token " << per_token
                            << ": got " << got << ", want " << exact << " +- " << tolerance;
          }
        }
      }
    }
  }
}

// A graph captured for one batch serves shorter contexts and padding, when the batch's arrays have changed, and so does
// a chain (each kernel starting before the one before has ended).
TEST(Attention, GraphServesShorterContexts) {
  for (const KvFormat format : {KvFormat::fp16, KvFormat::fp8, KvFormat::int8}) {
    const std::vector<int32_t> tokens{1000, 65, 500, 1000, 130};
    const Step step(describe(format, 2, 4, 128, 64), {tokens.begin(), tokens.end()}, {});
    for (const KernelFamily family : {KernelFamily::sm80, KernelFamily::sm90a}) {
      const std::vector<uint16_t> q = to_half(step.queries());
      const DeviceBatch device(step.batch());
      const DeviceVector<uint16_t> device_q(q), out(q.size());
      DeviceVector<int32_t> kv_tokens(tokens);
      CudaBatch view = device.view();
      view.kv_tokens = kv_tokens.data();
      CudaAttention attention(step.desc(), card(family), 5, 5, step.batch().max_pages());
      CudaQueue queue;
      queue.chained = true;
      QG_CUDA(cudaStreamCreate(&queue.stream));
      QG_CUDA(cudaStreamBeginCapture(queue.stream, cudaStreamCaptureModeThreadLocal));
      for (int layer = 0; layer < 3; ++layer)
        attention.decode(queue, view, 5, 2048, reinterpret_cast<const __half*>(device_q.data()), device.pool(),
                         step.scale(), {}, {out.data(), nullptr});
      cudaGraph_t graph;
      cudaGraphExec_t exec;
      QG_CUDA(cudaStreamEndCapture(queue.stream, &graph));
      QG_CUDA(cudaGraphInstantiate(&exec, graph, 0));
      for (const std::vector<int32_t>& now :
           std::vector<std::vector<int32_t>>{tokens, {1, 0, 499, 257, 64}, {700, 65, 0, 1000, 0}}) {
        QG_CUDA(cudaMemcpy(kv_tokens.data(), now.data(), now.size() * sizeof(int32_t), cudaMemcpyHostToDevice));
        QG_CUDA(cudaMemset(out.data(), kPoison, q.size() * 2));
        QG_CUDA(cudaDeviceSynchronize());
        QG_CUDA(cudaGraphLaunch(exec, queue.stream));
        expect_close(step, from_half(out.read()), step.reference(now), [](float) { return 0.0f; });
      }
      QG_CUDA(cudaGraphExecDestroy(exec));
      QG_CUDA(cudaGraphDestroy(graph));
      QG_CUDA(cudaStreamDestroy(queue.stream));
    }
  }
}

}  // namespace
}  // namespace qg::testing
