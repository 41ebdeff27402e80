#pragma once
// The operations between matrix products, on the GPU. Each ends with the quantization that the next linear layer asks
// for, so that no activation is written twice. All may be captured in a CUDA graph and chained (common/cuda.h).
#include <cstdint>

#include "core/dtype.h"
#include "kernels/common/activation.h"
#include "kernels/common/cuda.h"

namespace qg {

inline constexpr int64_t kLargestNormWidth = 16384;

// 16-bit inputs are BF16 where the form asked for is BF16, else FP16.

// residual += delta; out = quantize(rms_norm(residual) * weight). The residual stream is float: it is the sum of 2 *
// layers terms, and half would round each of them.
struct AddRmsNormParams {
  int64_t rows = 0, width = 0;  // width a multiple of 4, at most kLargestNormWidth
  float epsilon = 0;
  float* residual = nullptr;             // [rows or more, width]
  const void* delta = nullptr;           // 16 bits, [rows or more, width]; null: nothing is added
  const int32_t* tokens = nullptr;       // [rows]: residual starts as embedding[token]; needs embedding
  const int32_t* sampled = nullptr;      // a token of -1 - i in `tokens` stands for sampled[i]
  const void* embedding = nullptr;       // 16 bits, [vocab, width]
  const int32_t* source_rows = nullptr;  // [rows], each named once: output row i comes from this row
  bool delta_in_order = false;           // row i of delta is output row i's nevertheless
  bool keeps_sum = true;                 // else the residual is not written
  const float* weight = nullptr;         // [width]
  ActivationRequest request;
  ActivationBuffer out;  // [rows, width]
};
void add_rms_norm(const CudaQueue& queue, const AddRmsNormParams& params);

// out = quantize(silu(gate) * up); gate_up [rows, 2 * width]: 8 values of gate, then 8 of up, and so on. width a
// multiple of 8.
void silu_mul(const CudaQueue& queue, int64_t rows, int64_t width, const void* gate_up,
              const ActivationRequest& request, const ActivationBuffer& out);

// out = quantize(x), x [rows, width] of 16 bits; width a multiple of 8.
void quantize_rows(const CudaQueue& queue, int64_t rows, int64_t width, const void* x, const ActivationRequest& request,
                   const ActivationBuffer& out);

// `count` values from the other 16-bit type to `to` (F16 or BF16), where they lie: 16-byte aligned, count a multiple of
// 8. Rounds to nearest even; what F16 does not hold becomes infinite.
void convert_in_place(const CudaQueue& queue, int64_t count, void* values, DType to);

// Where sampled tokens go: that of row i to device[*first + i] and host[*first + i].
struct TokenTarget {
  int32_t* device = nullptr;
  int32_t* host = nullptr;         // page-locked; written once, in one piece, so that the host can wait for it. Or null
  const int32_t* first = nullptr;  // on the device; null: 0
};

// to[i] = index of the largest of logits[i], the lowest among equals; -2 when a logit is not finite.
// logits [rows, vocab]; scratch of argmax_scratch_bytes(rows), zeroed once (each run leaves it zeroed).
int64_t argmax_scratch_bytes(int64_t rows);
void argmax_rows(const CudaQueue& queue, int64_t rows, int64_t vocab, const float* logits, const TokenTarget& to,
                 void* scratch);

// How one row is sampled; sample_token defines it.
struct SampleRow {
  float inverse_temperature = 0;  // 0: greedy, the row keeps its token
  int32_t top_k = 0;              // 0: all
  float top_p = 1;
  float unused = 0;
  double draw = 0;  // uniform in [0, 1)
};

// to.device holds argmax_rows' result and gets the sampled tokens; so does to.host. asked [rows] on the device.
void sample_rows(const CudaQueue& queue, int64_t rows, int64_t vocab, const float* logits, const SampleRow* asked,
                 const TokenTarget& to);

}  // namespace qg
