#pragma once
// A step of attention on the GPU against the CPU reference, on the same stored bytes and the same f16 queries.
//
// Tolerance. Both sides read the same values; the GPU rounds each weight to f16 before it is multiplied with V
// (relative error up to 2^-11, uniform), sums in float, and rounds the result to f16. With V of zero mean a row of the
// result has rms(o) = sigma sqrt(sum w^2), and the rounded weights add an error of rms at most 2^-11 / sqrt(3) rms(o);
// the last rounding adds at most 2^-11 / sqrt(3) of an element. So the row's error is within 2^-11 rms(o), and an
// element's within 2^-11 (|o| + 4 rms(o)) (7 standard deviations). One token missed or wrongly seen among n makes an
// error of rms(o) / sqrt(n): 30 times more at 4097 tokens.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <string>

#include "kernels/attention/cuda.h"
#include "kernels/attention/run.h"
#include "tests/gpu/paged_batch.h"

namespace qg::testing {

inline constexpr float kHalfError = 1.0f / 2048;
inline constexpr KvScale kScale{0.03f, 0.02f};

inline DeviceCapabilities card(KernelFamily family) {
  DeviceCapabilities device = read_device_capabilities(0);
  device.family = std::min(family, device.family);
  return device;
}

inline AttentionDesc describe(KvFormat format, int64_t kv_heads, int64_t group, int64_t head_dim, int64_t page_tokens) {
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

inline std::string where(const Step& step, size_t index) {
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

inline void expect_right(const Step& step, KernelFamily family, int64_t max_context) {
  SCOPED_TRACE(to_string(family));
  const std::vector<float> want = step.reference();
  const std::vector<uint16_t> half = step.run<uint16_t>(family, {}, max_context);
  expect_close(step, from_half(half), want, [](float) { return 0.0f; });
  const std::vector<uint16_t> again = step.run<uint16_t>(family, {}, max_context);
  size_t differ = 0, first = half.size(), last = 0;
  for (size_t i = 0; i < half.size(); ++i) {
    if (half[i] == again[i]) continue;
    ++differ;
    first = std::min(first, i);
    last = i;
  }
  if (differ > 0)
    ADD_FAILURE() << "two runs differ in " << differ << " of " << half.size() << " values, from " << where(step, first)
                  << " to " << where(step, last);
}

}  // namespace qg::testing
