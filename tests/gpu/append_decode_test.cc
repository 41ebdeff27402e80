// Decode that rotates q and k and stores the newest tokens itself, against rope_and_append and decode one after the
// other: the stored bytes are equal, and so are results where tokens are cut among blocks in the same way. With shaped
// keys they may be cut differently; results are then compared with the CPU reference, which reads the stored bytes and
// the queries that rope_and_append left, within the tolerance that tests/gpu/attention_step.h derives.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <limits>
#include <string>

#include "kernels/attention/cuda.h"
#include "kernels/attention/cuda_kernels.h"
#include "kernels/attention/run.h"
#include "tests/gpu/paged_batch.h"
#include "tests/gpu/shaped_cache.h"

namespace qg::testing {
namespace {

struct Case {
  KvFormat format = KvFormat::fp16;
  bool shaped = false;
  int64_t kv_heads = 2, group = 4, head_dim = 128, page_tokens = 64;
  int64_t window = 0;  // 0: none
  KernelFamily family = KernelFamily::sm90a;
  KvScale scale() const { return format == KvFormat::fp16 ? KvScale{} : KvScale{0.03f, 0.02f}; }
  AttentionDesc desc() const {
    AttentionDesc d;
    d.heads = kv_heads * group;
    d.kv = {format, kv_heads, head_dim, page_tokens};
    d.score_scale = 1 / std::sqrt(static_cast<double>(head_dim));
    if (window > 0) d.sliding_window = window;
    return d;
  }
  std::string name() const {
    return to_string(desc()) + (shaped ? " shaped" : "") + " page=" + std::to_string(page_tokens) +
           " window=" + std::to_string(window) + " " + to_string(family);
  }
};

DeviceCapabilities card(KernelFamily family) {
  DeviceCapabilities device = read_device_capabilities(0);
  device.family = std::min(family, device.family);
  return device;
}

// A step of decode pieces: a cache in which all but the newest tokens are, what the QKV product left, and both ways on.
class Step {
 public:
  // kv_tokens of the pieces, the newest included; 0: padding.
  Step(const Case& c, const std::vector<int64_t>& kv_tokens)
      : case_(c),
        desc_(c.desc()),
        batch_(desc_.kv, pieces_of(kv_tokens)),
        width_(desc_.heads * c.head_dim),
        stride_(width_ + 2 * c.kv_heads * c.head_dim + 8),
        qkv_(to_half(normal_values(static_cast<size_t>(batch_.rows() * stride_), 17))),
        device_qkv_(qkv_),
        table_(device_table(c.head_dim)),
        shaping_(random_shaping(c.kv_heads, c.head_dim, false)),
        attention_(desc_, card(c.family), batch_.rows(), batch_.rows(), batch_.max_pages()) {
    batch_.fill(c.scale(), c.window > 0 ? c.window : std::numeric_limits<int32_t>::max(), 1.0f);
    const size_t row_bytes = static_cast<size_t>(c.head_dim * desc_.kv.element_size());
    for (size_t i = 0; i < kv_tokens.size(); ++i)
      for (int64_t which = 0; which < 2 && kv_tokens[i] > 0; ++which)
        for (int64_t head = 0; head < c.kv_heads; ++head)
          std::fill_n(batch_.pool().data() + batch_.offset(i, which, head, kv_tokens[i] - 1), row_bytes,
                      std::byte{kPoison});
  }

  struct Result {
    std::vector<uint16_t> out, q;
    std::vector<std::byte> pool;
  };

  void launch(const CudaQueue& queue, const CudaBatch& view, bool fused, int64_t max_context, std::byte* pool,
              __half* q, const ActivationRequest& request, const ActivationBuffer& out) {
    const CudaKvShaping matrices = shaping_.view();
    const CudaKvShaping* shaping = case_.shaped ? &matrices : nullptr;
    const CudaQkv qkv = {reinterpret_cast<const __half*>(device_qkv_.data()), stride_, desc_.heads};
    const int64_t rows = batch_.rows();
    if (fused)
      return attention_.append_and_decode(queue, view, rows, max_context, qkv, table_.data(), pool, case_.scale(),
                                          shaping, request, out);
    rope_and_append(queue, desc_.kv, view, rows, qkv, table_.data(), case_.scale(), q, pool, shaping);
    attention_.decode(queue, view, rows, max_context, q, pool, case_.scale(), request, out);
  }

  Result run(bool fused, int64_t max_context) {
    const DeviceBatch device(batch_);
    const DeviceVector<uint16_t> out(static_cast<size_t>(batch_.rows() * width_)), q(out.read().size());
    launch({}, device.view(), fused, max_context, device.pool(), reinterpret_cast<__half*>(q.data()), {},
           {out.data(), nullptr});
    return {out.read(), q.read(), device.read_pool()};
  }

  std::vector<float> reference(const Result& stored) const {
    std::vector<float> q = from_half(stored.q), out(q.size(), 0.0f);
    for (size_t row = 0; row < batch_.pieces().size(); ++row)
      if (batch_.pieces()[row].kv_tokens == 0)
        std::fill_n(q.begin() + static_cast<int64_t>(row) * width_, width_, 0.0f);
    std::vector<AttentionPiece> pieces = batch_.attention_pieces();
    std::erase_if(pieces, [](const AttentionPiece& p) { return p.context_tokens + p.num_tokens == 0; });
    run_attention_reference(desc_, {q.data(), width_, stored.pool.data(), case_.scale(), pieces, out.data()});
    return out;
  }

  std::string where(size_t index) const {
    const size_t row = index / static_cast<size_t>(width_), in_row = index % static_cast<size_t>(width_);
    return case_.name() + " piece " + std::to_string(row) + " of " + std::to_string(batch_.rows()) + " (" +
           std::to_string(batch_.pieces()[row].kv_tokens) + " tokens) head " +
           std::to_string(in_row / static_cast<size_t>(case_.head_dim)) + " channel " +
           std::to_string(in_row % static_cast<size_t>(case_.head_dim));
  }

  const Case& what() const { return case_; }
  const PagedBatch& batch() const { return batch_; }
  CudaAttention& attention() { return attention_; }
  size_t width() const { return static_cast<size_t>(width_); }

 private:
  static std::vector<StepPiece> pieces_of(const std::vector<int64_t>& kv_tokens) {
    std::vector<StepPiece> pieces;
    for (const int64_t tokens : kv_tokens) pieces.push_back({1, tokens});
    return pieces;
  }

  Case case_;
  AttentionDesc desc_;
  PagedBatch batch_;
  int64_t width_, stride_;
  std::vector<uint16_t> qkv_;
  DeviceVector<uint16_t> device_qkv_;
  DeviceVector<float2> table_;
  DeviceShaping shaping_;
  CudaAttention attention_;
};

void expect_same_pool(const Step& step, const std::vector<std::byte>& got, const std::vector<std::byte>& want) {
  ASSERT_EQ(got.size(), want.size());
  const KvLayout& layout = step.batch().layout();
  const size_t row_bytes = static_cast<size_t>(layout.head_dim * layout.element_size());
  int reported = 0;
  for (size_t i = 0; i < got.size() && reported < 4; ++i) {
    if (got[i] == want[i]) continue;
    const size_t row = i / row_bytes, page_rows = static_cast<size_t>(2 * layout.kv_heads * layout.page_tokens);
    ADD_FAILURE() << step.what().name() << " rows " << step.batch().rows() << ": byte " << i % row_bytes << " of row "
                  << row % page_rows << " of page " << row / page_rows << " (V from row " << page_rows / 2 << " on) is "
                  << static_cast<int>(got[i]) << ", want " << static_cast<int>(want[i]) << ", was "
                  << static_cast<int>(step.batch().pool()[i]);
    ++reported;
  }
}

void expect_same(const Step& step, const std::vector<uint16_t>& got, const std::vector<uint16_t>& want) {
  ASSERT_EQ(got.size(), want.size());
  int reported = 0;
  for (size_t i = 0; i < got.size() && reported < 4; ++i) {
    if (got[i] == want[i]) continue;
    ADD_FAILURE() << step.where(i) << ": got " << f32_from_f16(got[i]) << ", want " << f32_from_f16(want[i]);
    ++reported;
  }
}

// sides: how many of the two have errors of their own.
void expect_close(const Step& step, const std::vector<uint16_t>& half, const std::vector<float>& want, int sides = 1) {
  constexpr double kHalfError = 1.0 / 2048;
  const size_t d = static_cast<size_t>(step.what().head_dim);
  const std::vector<float> got = from_half(half);
  int reported = 0;
  for (size_t head = 0; head < want.size() / d && reported < 4; ++head) {
    double squares = 0, errors = 0;
    for (size_t i = head * d; i < (head + 1) * d; ++i) squares += static_cast<double>(want[i]) * want[i];
    const double rms = std::sqrt(squares / static_cast<double>(d));
    for (size_t i = head * d; i < (head + 1) * d && reported < 4; ++i) {
      const double error = std::fabs(static_cast<double>(got[i]) - want[i]);
      const double tolerance = sides * kHalfError * (std::fabs(want[i]) + 4 * rms);
      errors += error * error;
      if (error <= tolerance) continue;
      ADD_FAILURE() << step.where(i) << ": got " << got[i] << ", want " << want[i] << " +- " << tolerance;
      ++reported;
    }
    const double row = std::sqrt(errors / static_cast<double>(d));
    EXPECT_LE(row, sides * kHalfError * rms) << step.where(head * d) << ": rms of the errors";
  }
}

// One block a unit, however many run beside it: tokens that fill no more than one step.
bool same_cut(const Case& c, int64_t max_context) {
  return !c.shaped || max_context <= attention::decode_step_tokens(c.format, static_cast<int>(c.head_dim));
}

void run_case(const Case& c, const std::vector<int64_t>& kv_tokens, int64_t max_context) {
  Step step(c, kv_tokens);
  const Step::Result want = step.run(false, max_context), got = step.run(true, max_context);
  expect_same_pool(step, got.pool, want.pool);
  if (same_cut(c, max_context)) expect_same(step, got.out, want.out);
  expect_close(step, got.out, step.reference(want));
  EXPECT_EQ(got.out, step.run(true, max_context).out) << c.name() << ": two runs differ";
}

// Alone in a page, alone in a step of a warp, at its end; padding between.
const std::vector<int64_t> kTokens{1,   2,   15,  16,  17,  31,  32,   33,   63,   64, 65, 127, 128,
                                   129, 255, 256, 257, 511, 513, 1000, 1025, 4097, 0,  3,  0};

// (format, shaped keys)
const std::pair<KvFormat, bool> kForms[] = {{KvFormat::fp16, false},
                                            {KvFormat::fp8, false},
                                            {KvFormat::int8, false},
                                            {KvFormat::fp8, true},
                                            {KvFormat::int8, true}};

class AppendAndDecode : public ::testing::TestWithParam<std::tuple<std::pair<KvFormat, bool>, int64_t, int64_t>> {};

TEST_P(AppendAndDecode, DoesWhatTwoLaunchesDo) {
  const auto [form, head_dim, group] = GetParam();
  const auto [format, shaped] = form;
  for (const int64_t page_tokens : {16, 64}) {
    Case c{format, shaped, 2, group, head_dim, page_tokens};
    run_case(c, kTokens, 4097);
    run_case(c, {1, 0, 17, 40, 64, 100}, 128);
    c.family = KernelFamily::sm80;
    if (format == KvFormat::fp8 && page_tokens == 64) run_case(c, kTokens, 8192);
  }
}

INSTANTIATE_TEST_SUITE_P(All, AppendAndDecode,
                         ::testing::Combine(::testing::ValuesIn(kForms), ::testing::Values(64, 128),
                                            ::testing::Values(1, 3, 4, 8, 12)));

TEST(AppendAndDecodeSteps, SlidingWindow) {
  for (const auto& [format, shaped] : kForms)
    for (const int64_t window : {1, 2, 17, 64, 100, 1000})
      run_case({format, shaped, 2, 4, 128, 16, window}, kTokens, 4097);
}

// Batches of all sizes, one sequence alone too: from many blocks a sequence to one, from one key a block to four.
TEST(AppendAndDecodeSteps, BatchesOfAllSizes) {
  for (const auto& [format, shaped] : kForms)
    for (const int64_t head_dim : {64, 128})
      for (const int64_t pieces : {1, 2, 5, 8, 9, 16, 31, 64, 130}) {
        std::vector<int64_t> tokens;
        for (int64_t i = 0; i < pieces; ++i)
          tokens.push_back(i % 11 == 10 ? 0 : 1 + mixed(static_cast<uint64_t>(i)) % 300);
        run_case({format, shaped, 8, 4, head_dim, 64}, tokens, 512);
      }
}

TEST(AppendAndDecodeSteps, QuantizedOutput) {
  for (const auto& [format, shaped] : kForms) {
    Step step({format, shaped}, {5, 100, 0, 64});
    for (const ActivationForm form : {ActivationForm::fp8, ActivationForm::int8})
      for (const bool per_token : {false, true}) {
        std::vector<uint8_t> codes[2];
        std::vector<float> scales[2];
        for (const bool fused : {false, true}) {
          const DeviceBatch device(step.batch());
          const DeviceVector<uint8_t> out(4 * step.width());
          const DeviceVector<uint16_t> q(4 * step.width());
          const DeviceVector<float> row_scales(std::vector<float>(4, -1.0f));
          step.launch({}, device.view(), fused, 128, device.pool(), reinterpret_cast<__half*>(q.data()),
                      {form, per_token, 0.02f, nullptr}, {out.data(), row_scales.data()});
          codes[fused] = out.read();
          scales[fused] = row_scales.read();
        }
        EXPECT_EQ(codes[1], codes[0]) << step.what().name() << " per token " << per_token;
        EXPECT_EQ(scales[1], scales[0]) << step.what().name() << " per token " << per_token;
      }
  }
}

// Layers of a step as a chain in a graph, each with a cache of its own: other lengths and padding than it was captured
// with, twice the same in a row, and mailboxes empty after each layer.
TEST(AppendAndDecodeSteps, GraphOfLayers) {
  constexpr size_t kLayers = 4;
  const std::vector<int32_t> captured{1000, 65, 500, 1000, 130, 640, 1, 777, 64};
  for (const auto& [format, shaped] : kForms) {
    Step step({format, shaped}, {captured.begin(), captured.end()});
    const size_t rows = captured.size();
    const DeviceBatch device(step.batch());
    DeviceVector<int32_t> kv_tokens(captured), positions(rows);
    CudaBatch view = device.view();
    view.kv_tokens = kv_tokens.data();
    view.row_position = positions.data();
    const DeviceVector<uint16_t> q(rows * step.width());
    auto* half_q = reinterpret_cast<__half*>(q.data());
    std::vector<DeviceVector<std::byte>> pools;
    std::vector<DeviceVector<uint16_t>> outs;
    for (size_t layer = 0; layer <= kLayers; ++layer) {  // the last: of the two launches
      pools.emplace_back(step.batch().pool());
      outs.emplace_back(rows * step.width());
    }
    CudaQueue queue;
    queue.chained = true;
    QG_CUDA(cudaStreamCreate(&queue.stream));
    const auto launch = [&](const CudaQueue& to, bool fused, size_t layer) {
      step.launch(to, view, fused, 2048, pools[layer].data(), half_q, {}, {outs[layer].data(), nullptr});
    };
    launch({}, true, 0);  // kernels are loaded before a capture
    QG_CUDA(cudaDeviceSynchronize());
    QG_CUDA(cudaStreamBeginCapture(queue.stream, cudaStreamCaptureModeThreadLocal));
    for (size_t layer = 0; layer < kLayers; ++layer) launch(queue, true, layer);
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    QG_CUDA(cudaStreamEndCapture(queue.stream, &graph));
    QG_CUDA(cudaGraphInstantiate(&exec, graph, 0));
    const std::vector<std::vector<int32_t>> steps = {captured,
                                                     {1, 0, 499, 257, 64, 0, 1, 128, 0},
                                                     {700, 65, 0, 1000, 0, 33, 0, 129, 2},
                                                     {700, 65, 0, 1000, 0, 33, 0, 129, 2}};
    for (const std::vector<int32_t>& now : steps) {
      std::vector<int32_t> at = now;
      for (int32_t& position : at) --position;
      QG_CUDA(cudaMemcpy(kv_tokens.data(), now.data(), rows * sizeof(int32_t), cudaMemcpyHostToDevice));
      QG_CUDA(cudaMemcpy(positions.data(), at.data(), rows * sizeof(int32_t), cudaMemcpyHostToDevice));
      const std::vector<std::byte>& fresh = step.batch().pool();
      for (size_t layer = 0; layer <= kLayers; ++layer) {
        QG_CUDA(cudaMemcpy(pools[layer].data(), fresh.data(), fresh.size(), cudaMemcpyHostToDevice));
        outs[layer].poison();
      }
      launch({}, false, kLayers);
      QG_CUDA(cudaDeviceSynchronize());
      QG_CUDA(cudaGraphLaunch(exec, queue.stream));
      const std::vector<std::byte> pool = pools[kLayers].read();
      const std::vector<uint16_t> two_launches = outs[kLayers].read(), first = outs[0].read();
      if (shaped)
        expect_close(step, first, from_half(two_launches), 2);
      else
        expect_same(step, first, two_launches);
      for (size_t layer = 0; layer < kLayers; ++layer) {
        expect_same_pool(step, pools[layer].read(), pool);
        EXPECT_EQ(outs[layer].read(), first) << step.what().name() << ": layer " << layer << " differs from the first";
      }
    }
    QG_CUDA(cudaGraphExecDestroy(exec));
    QG_CUDA(cudaGraphDestroy(graph));
    QG_CUDA(cudaStreamDestroy(queue.stream));
  }
}

TEST(AppendAndDecodeSteps, RefusesMoreShapedKeysThanItHasMailFor) {
  Step step({KvFormat::fp8, true}, {3});
  EXPECT_TRUE(step.attention().appends(1 << 20, false));
  EXPECT_TRUE(step.attention().appends(attention::kMostMail / 2, true));
  EXPECT_FALSE(step.attention().appends(attention::kMostMail / 2 + 1, true));
  const CudaKvShaping shaping;
  EXPECT_ANY_THROW(
      step.attention().append_and_decode({}, {}, attention::kMostMail, 1, {}, nullptr, nullptr, {}, &shaping, {}, {}));
}

}  // namespace
}  // namespace qg::testing
