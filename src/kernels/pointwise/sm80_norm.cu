// residual += delta; RMSNorm; quantization. One block a row, which stays in registers.
#include "kernels/pointwise/block.cuh"
#include "kernels/pointwise/cuda.h"
#include "kernels/pointwise/quantize.cuh"

namespace qg {
namespace {

struct NormArguments {
  int width;
  float epsilon;
  float* residual;
  const void* delta;
  const int32_t* tokens;
  const int32_t* sampled;
  const void* embedding;
  const int32_t* source_rows;
  bool delta_in_order, keeps_sum;
  const float* weight;
  const float* prequant;
  float static_scale;
  void* out;
  float* row_scales;
};

template <ActivationForm kForm>
__device__ __forceinline__ void add_four(float (&x)[4], uint2 bits) {
  using W = Wide<kForm>;
  const float2 low = W::floats(*reinterpret_cast<const typename W::Pair*>(&bits.x));
  const float2 high = W::floats(*reinterpret_cast<const typename W::Pair*>(&bits.y));
  x[0] += low.x, x[1] += low.y, x[2] += high.x, x[3] += high.y;
}

// A sampled token below 0 is that of logits that are not finite: any row of the embedding will do.
__device__ __forceinline__ int token_of(const NormArguments& a, int row) {
  const int token = a.tokens[row];
  return token >= 0 ? token : max(a.sampled[-1 - token], 0);
}

// kChunks * kThreads * 4 >= width.
template <int kThreads, int kChunks, ActivationForm kForm, bool kPerToken>
__global__ void __launch_bounds__(kThreads) add_rms_norm_kernel(NormArguments a) {
  let_next_start();
  const int row = static_cast<int>(blockIdx.x);
  float weight[kChunks][4] = {};  // does not depend on the kernel before
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int column = (c * kThreads + static_cast<int>(threadIdx.x)) * 4;
    if (column < a.width) {
      const float4 w = *reinterpret_cast<const float4*>(a.weight + column);
      weight[c][0] = w.x, weight[c][1] = w.y, weight[c][2] = w.z, weight[c][3] = w.w;
#pragma unroll
      for (int i = 0; i < 4 && a.prequant; ++i) weight[c][i] *= a.prequant[column + i];
    }
  }
  wait_for_previous();

  const int64_t source = a.source_rows ? a.source_rows[row] : row;
  float* residual = a.residual + source * a.width;
  // What is added: the embedding, to nothing, or delta.
  using T = typename Wide<kForm>::Type;
  const T* addend = a.tokens  ? static_cast<const T*>(a.embedding) + static_cast<int64_t>(token_of(a, row)) * a.width
                    : a.delta ? static_cast<const T*>(a.delta) + (a.delta_in_order ? row : source) * a.width
                              : nullptr;
  // All loads first: the row is short, and what takes time is the way to memory.
  float x[kChunks][4];
  uint2 added[kChunks];
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int column = (c * kThreads + static_cast<int>(threadIdx.x)) * 4;
    float4 r = make_float4(0, 0, 0, 0);
    added[c] = make_uint2(0, 0);
    if (column < a.width && !a.tokens) r = *reinterpret_cast<const float4*>(residual + column);
    if (column < a.width && addend) added[c] = *reinterpret_cast<const uint2*>(addend + column);
    x[c][0] = r.x, x[c][1] = r.y, x[c][2] = r.z, x[c][3] = r.w;
  }
  float squares = 0;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int column = (c * kThreads + static_cast<int>(threadIdx.x)) * 4;
    add_four<kForm>(x[c], added[c]);
    if (column < a.width && addend && a.keeps_sum)
      *reinterpret_cast<float4*>(residual + column) = make_float4(x[c][0], x[c][1], x[c][2], x[c][3]);
#pragma unroll
    for (int i = 0; i < 4; ++i) squares += x[c][i] * x[c][i];
  }
  // The norm is one factor for the whole row, so the largest magnitude can be found before it is known.
  float largest = 0;
#pragma unroll
  for (int c = 0; c < kChunks; ++c)
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      x[c][i] *= weight[c][i];
      if constexpr (kPerToken) largest = fmaxf(largest, fabsf(x[c][i]));
    }
  if constexpr (kPerToken)
    block_sum_and_max<kThreads>(squares, largest);
  else
    squares = block_sum<kThreads>(squares);
  const float inverse_norm = rsqrtf(squares / static_cast<float>(a.width) + a.epsilon);
  float scale = a.static_scale;
  if constexpr (kPerToken) {
    scale = row_scale<kForm>(inverse_norm * largest);
    if (threadIdx.x == 0) a.row_scales[row] = scale;
  }
  const float inverse = __fdiv_rn(1.0f, scale);
  void* out = static_cast<uint8_t*>(a.out) + static_cast<int64_t>(row) * a.width * bytes_of(kForm);
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    const int column = (c * kThreads + static_cast<int>(threadIdx.x)) * 4;
    if (column >= a.width) continue;
#pragma unroll
    for (int i = 0; i < 4; ++i) x[c][i] *= inverse_norm;
    store<kForm>(out, column, x[c], inverse);
  }
}

template <int kThreads, int kChunks>
void launch_form(const CudaQueue& queue, int64_t rows, const ActivationRequest& request, const NormArguments& a) {
  const dim3 grid(static_cast<unsigned>(rows)), block(kThreads);
  using F = ActivationForm;
  if (request.form == F::f16)
    launch(queue, add_rms_norm_kernel<kThreads, kChunks, F::f16, false>, grid, block, 0, a);
  else if (request.form == F::bf16)
    launch(queue, add_rms_norm_kernel<kThreads, kChunks, F::bf16, false>, grid, block, 0, a);
  else if (request.form == F::fp8 && request.per_token)
    launch(queue, add_rms_norm_kernel<kThreads, kChunks, F::fp8, true>, grid, block, 0, a);
  else if (request.form == F::fp8)
    launch(queue, add_rms_norm_kernel<kThreads, kChunks, F::fp8, false>, grid, block, 0, a);
  else if (request.per_token)
    launch(queue, add_rms_norm_kernel<kThreads, kChunks, F::int8, true>, grid, block, 0, a);
  else
    launch(queue, add_rms_norm_kernel<kThreads, kChunks, F::int8, false>, grid, block, 0, a);
}

}  // namespace

void add_rms_norm(const CudaQueue& queue, const AddRmsNormParams& p) {
  if (p.rows == 0) return;
  const NormArguments a{static_cast<int>(p.width),
                        p.epsilon,
                        p.residual,
                        p.delta,
                        p.tokens,
                        p.sampled,
                        p.embedding,
                        p.source_rows,
                        p.delta_in_order,
                        p.keeps_sum,
                        p.weight,
                        p.request.prequant,
                        p.request.static_scale,
                        p.out.values,
                        p.out.row_scales};
  // Alone, a few rows are faster with 256 threads that hold more each; within a step, where the kernel before and the
  // one after are on the multiprocessor too, they are not (docs/performance-log.md).
  if (p.width <= 1024)
    launch_form<256, 1>(queue, p.rows, p.request, a);
  else if (p.width <= 4096)
    launch_form<1024, 1>(queue, p.rows, p.request, a);
  else if (p.width <= 8192)
    launch_form<1024, 2>(queue, p.rows, p.request, a);
  else
    launch_form<1024, 4>(queue, p.rows, p.request, a);
}

}  // namespace qg
