// Paged attention on the GPU against the CPU reference, on the same stored bytes and the same f16 queries.
//
// Tolerance. Both sides read the same values; the GPU rounds each weight to f16 before it is multiplied with V
// (relative error up to 2^-11, uniform), sums in float, and rounds the result to f16. With V of zero mean a row of the
// result has rms(o) = sigma sqrt(sum w^2), and the rounded weights add an error of rms at most 2^-11 / sqrt(3) rms(o);
// the last rounding adds at most 2^-11 / sqrt(3) of an element. So the row's error is within 2^-11 rms(o), and an
// element's within 2^-11 (|o| + 4 rms(o)) (7 standard deviations). One token missed or wrongly seen among n makes an
// error of rms(o) / sqrt(n): 30 times more at 4097 tokens.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <limits>
#include <string>

#include "kernels/attention/cuda.h"
#include "kernels/attention/cuda_choice.h"
#include "kernels/attention/run.h"
#include "tests/gpu/paged_batch.h"

namespace qg::testing {
namespace {

constexpr float kHalfError = 1.0f / 2048;
constexpr KvScale kScale{0.03f, 0.02f};

DeviceCapabilities card(KernelFamily family) {
  DeviceCapabilities device = read_device_capabilities(0);
  device.family = std::min(family, device.family);
  return device;
}

AttentionDesc describe(KvFormat format, int64_t kv_heads, int64_t group, int64_t head_dim, int64_t page_tokens) {
  AttentionDesc desc;
  desc.heads = kv_heads * group;
  desc.kv = {format, kv_heads, head_dim, page_tokens};
  desc.score_scale = 1 / std::sqrt(static_cast<double>(head_dim));
  return desc;
}

// A step: decode pieces, then prefill pieces, queries, and what the reference says.
class Step {
 public:
  Step(const AttentionDesc& desc, const std::vector<int64_t>& decode_tokens, const std::vector<StepPiece>& prefill)
      : desc_(desc),
        decode_pieces_(static_cast<int64_t>(decode_tokens.size())),
        batch_(desc.kv, join(decode_tokens, prefill)),
        width_(desc.heads * desc.kv.head_dim) {
    batch_.fill(kScale, desc.sliding_window.value_or(std::numeric_limits<int32_t>::max()), 1.0f);
    // Every other head's scores are sharp, so that some results hang on few tokens and others on all of them.
    std::vector<float> q = normal_values(static_cast<size_t>(batch_.rows() * width_), 1);
    for (size_t i = 0; i < q.size(); ++i) q[i] *= i / static_cast<size_t>(desc.kv.head_dim) % 2 ? 3.0f : 0.7f;
    q_ = to_half(q);
  }

  // kv_tokens: other lengths of decode pieces than the step's, 0 for padding, whose results are zeros.
  std::vector<float> reference(const std::vector<int32_t>& kv_tokens = {}) const {
    const std::vector<float> q = from_half(q_);
    std::vector<float> out(q.size(), 0.0f);
    std::vector<AttentionPiece> pieces = batch_.attention_pieces();
    for (size_t i = 0; i < kv_tokens.size(); ++i) pieces[i].context_tokens = kv_tokens[i] - 1;
    std::erase_if(pieces, [](const AttentionPiece& p) { return p.context_tokens + p.num_tokens == 0; });
    run_attention_reference(desc_, {q.data(), width_, batch_.pool().data(), scale(), pieces, out.data()});
    return out;
  }

  // Runs the whole step; the result's bytes, [rows, width] of the form.
  template <class T>
  std::vector<T> run(KernelFamily family, const ActivationRequest& request, int64_t max_context,
                     std::vector<float>* row_scales = nullptr, int64_t f16_copy_bytes = 64 << 20) const {
    const DeviceBatch device(batch_);
    const DeviceVector<uint16_t> q(q_);
    const DeviceVector<T> out(q_.size());
    const DeviceVector<float> scales(static_cast<size_t>(batch_.rows()));
    CudaAttention attention(desc_, card(family), batch_.rows(), static_cast<int64_t>(batch_.pieces().size()),
                            batch_.max_pages(), true, f16_copy_bytes);
    const CudaQueue queue;
    const ActivationBuffer to{out.data(), scales.data()};
    const auto* half = reinterpret_cast<const __half*>(q.data());
    attention.decode(queue, device.view(), decode_pieces_, max_context, half, device.pool(), scale(), request, to);
    attention.plan_prefill(queue, device.view(), decode_pieces_, prefill_pieces());
    attention.prefill(queue, device.view(), half, device.pool(), scale(), request, to);
    if (row_scales != nullptr) *row_scales = scales.read();
    return out.read();
  }

  std::vector<CudaPrefillPiece> prefill_pieces() const {
    std::vector<CudaPrefillPiece> pieces;
    for (size_t i = static_cast<size_t>(decode_pieces_); i < batch_.pieces().size(); ++i)
      pieces.push_back({batch_.first_row()[i], static_cast<int32_t>(batch_.pieces()[i].num_tokens),
                        static_cast<int32_t>(batch_.pieces()[i].kv_tokens)});
    return pieces;
  }

  std::vector<float> queries() const { return from_half(q_); }
  KvScale scale() const { return desc_.kv.format == KvFormat::fp16 ? KvScale{} : kScale; }
  const AttentionDesc& desc() const { return desc_; }
  const PagedBatch& batch() const { return batch_; }
  int64_t width() const { return width_; }

 private:
  static std::vector<StepPiece> join(const std::vector<int64_t>& decode_tokens, const std::vector<StepPiece>& prefill) {
    std::vector<StepPiece> pieces;
    for (const int64_t tokens : decode_tokens) pieces.push_back({1, tokens});
    pieces.insert(pieces.end(), prefill.begin(), prefill.end());
    return pieces;
  }

  AttentionDesc desc_;
  int64_t decode_pieces_;
  PagedBatch batch_;
  int64_t width_;
  std::vector<uint16_t> q_;
};

std::string where(const Step& step, size_t index) {
  const int64_t d = step.desc().kv.head_dim, row = static_cast<int64_t>(index) / step.width();
  const size_t piece = static_cast<size_t>(step.batch().row_piece()[static_cast<size_t>(row)]);
  const StepPiece& p = step.batch().pieces()[piece];
  return to_string(step.desc()) + " page=" + std::to_string(step.desc().kv.page_tokens) + " piece " +
         std::to_string(piece) + " (" + std::to_string(p.num_tokens) + " of " + std::to_string(p.kv_tokens) + ") row " +
         std::to_string(row) + " position " + std::to_string(step.batch().row_position()[static_cast<size_t>(row)]) +
         " head " + std::to_string(static_cast<int64_t>(index) % step.width() / d) + " channel " +
         std::to_string(static_cast<int64_t>(index) % d);
}

// extra(x): what a stored result may be off beyond the tolerance above.
template <class Extra>
void expect_close(const Step& step, const std::vector<float>& got, const std::vector<float>& want, const Extra& extra) {
  const size_t d = static_cast<size_t>(step.desc().kv.head_dim);
  int reported = 0;
  double worst_row = 0;
  for (size_t head = 0; head < want.size() / d && reported < 5; ++head) {
    double squares = 0, errors = 0, allowed = 0;
    for (size_t c = 0; c < d; ++c) {
      squares += static_cast<double>(want[head * d + c]) * want[head * d + c];
      allowed += static_cast<double>(extra(want[head * d + c])) * extra(want[head * d + c]);
    }
    const double rms = std::sqrt(squares / static_cast<double>(d));
    for (size_t c = 0; c < d; ++c) {
      const size_t i = head * d + c;
      const double error = std::fabs(static_cast<double>(got[i]) - want[i]);
      const double tolerance = kHalfError * (std::fabs(want[i]) + 4 * rms) + extra(want[i]);
      errors += error * error;
      if (!(error <= tolerance) && ++reported <= 5)
        ADD_FAILURE() << where(step, i) << ": got " << got[i] << ", want " << want[i] << " +- " << tolerance;
    }
    const double row = std::sqrt(errors / static_cast<double>(d));
    const double row_tolerance = kHalfError * rms + std::sqrt(allowed / static_cast<double>(d));
    worst_row = std::max(worst_row, row / row_tolerance);
    if (!(row <= row_tolerance) && ++reported <= 5)
      ADD_FAILURE() << where(step, head * d) << ": rms of the errors " << row << ", at most " << row_tolerance;
  }
  if (reported > 0) std::printf("worst row: %.2f of its tolerance\n", worst_row);
}

const float no_extra = 0;

void expect_right(const Step& step, KernelFamily family, int64_t max_context) {
  const std::vector<float> want = step.reference();
  const std::vector<uint16_t> half = step.run<uint16_t>(family, {}, max_context);
  expect_close(step, from_half(half), want, [](float) { return no_extra; });
  EXPECT_EQ(half, step.run<uint16_t>(family, {}, max_context)) << to_string(step.desc()) << ": two runs differ";
}

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
      expect_close(step, from_half(half), want, [](float) { return no_extra; });
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
        expect_close(step, from_half(out.read()), step.reference(now), [](float) { return no_extra; });
      }
      QG_CUDA(cudaGraphExecDestroy(exec));
      QG_CUDA(cudaGraphDestroy(graph));
      QG_CUDA(cudaStreamDestroy(queue.stream));
    }
  }
}

}  // namespace
}  // namespace qg::testing
