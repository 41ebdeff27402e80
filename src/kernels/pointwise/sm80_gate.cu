// SiLU gating and plain quantization of rows. Where no scale is sought, a row is spread over several blocks.
#include "kernels/pointwise/block.cuh"
#include "kernels/pointwise/cuda.h"
#include "kernels/pointwise/quantize.cuh"
#include "kernels/pointwise/silu.cuh"

namespace qg {
namespace {

constexpr int kThreads = 256;

struct GateArguments {
  int width;
  const __half* x;  // [rows, width]; gated: [rows, 2 * width], 8 of gate, 8 of up, ...
  bool gated;
  const float* prequant;
  float static_scale;
  void* out;
  float* row_scales;
};

__device__ __forceinline__ void load_half8(float (&x)[8], const __half* from) {
  const uint4 bits = *reinterpret_cast<const uint4*>(from);
  const __half2* pairs = reinterpret_cast<const __half2*>(&bits);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = __half22float2(pairs[i]);
    x[2 * i] = pair.x, x[2 * i + 1] = pair.y;
  }
}

__device__ __forceinline__ void values_at(const GateArguments& a, int64_t row, int column, float (&x)[8]) {
  if (a.gated) {
    const __half* gate = a.x + (row * a.width + column) * 2;
    float up[8];
    load_half8(x, gate);
    load_half8(up, gate + 8);
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = silu_times(x[i], up[i]);
  } else {
    load_half8(x, a.x + row * a.width + column);
  }
  if (a.prequant) {
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] *= a.prequant[column + i];
  }
}

template <ActivationForm kForm>
__device__ __forceinline__ void* row_of(const GateArguments& a, int64_t row) {
  return static_cast<uint8_t*>(a.out) + row * a.width * (kForm == ActivationForm::f16 ? 2 : 1);
}

template <ActivationForm kForm>
__global__ void __launch_bounds__(kThreads) gate_kernel(GateArguments a) {
  let_next_start();
  wait_for_previous();
  const int64_t row = blockIdx.y;
  const int column = static_cast<int>(blockIdx.x * kThreads + threadIdx.x) * 8;
  if (column >= a.width) return;
  float x[8];
  values_at(a, row, column, x);
  store<kForm>(row_of<kForm>(a, row), column, x, __fdiv_rn(1.0f, a.static_scale));
}

// Up to kChunks * 8,192 values stay in registers; a longer row is read twice, the second time from the first-level
// cache.
template <ActivationForm kForm, int kChunks>
__global__ void __launch_bounds__(1024) gate_per_token_kernel(GateArguments a) {
  let_next_start();
  wait_for_previous();
  const int64_t row = blockIdx.x;
  const auto column_of = [](int chunk) { return (chunk * 1024 + static_cast<int>(threadIdx.x)) * 8; };
  float x[kChunks][8];
  float largest = 0;
#pragma unroll
  for (int c = 0; c < kChunks; ++c) {
    if (column_of(c) >= a.width) continue;
    values_at(a, row, column_of(c), x[c]);
#pragma unroll
    for (int i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(x[c][i]));
  }
  for (int column = column_of(kChunks); column < a.width; column += 1024 * 8) {
    float y[8];
    values_at(a, row, column, y);
#pragma unroll
    for (int i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(y[i]));
  }
  const float scale = row_scale<kForm>(block_max<1024>(largest));
  if (threadIdx.x == 0) a.row_scales[row] = scale;
  const float inverse = __fdiv_rn(1.0f, scale);
#pragma unroll
  for (int c = 0; c < kChunks; ++c)
    if (column_of(c) < a.width) store<kForm>(row_of<kForm>(a, row), column_of(c), x[c], inverse);
  for (int column = column_of(kChunks); column < a.width; column += 1024 * 8) {
    float y[8];
    values_at(a, row, column, y);
    store<kForm>(row_of<kForm>(a, row), column, y, inverse);
  }
}

void run_gate(const CudaQueue& queue, int64_t rows, const ActivationRequest& request, const GateArguments& a) {
  if (rows == 0) return;
  const dim3 grid((static_cast<unsigned>(a.width) / 8 + kThreads - 1) / kThreads, static_cast<unsigned>(rows));
  using F = ActivationForm;
  if (request.form == F::f16)
    launch(queue, gate_kernel<F::f16>, grid, dim3(kThreads), 0, a);
  else if (request.form == F::fp8 && request.per_token)
    launch(queue, gate_per_token_kernel<F::fp8, 2>, dim3(grid.y), dim3(1024), 0, a);
  else if (request.form == F::fp8)
    launch(queue, gate_kernel<F::fp8>, grid, dim3(kThreads), 0, a);
  else if (request.per_token)
    launch(queue, gate_per_token_kernel<F::int8, 2>, dim3(grid.y), dim3(1024), 0, a);
  else
    launch(queue, gate_kernel<F::int8>, grid, dim3(kThreads), 0, a);
}

}  // namespace

void silu_mul(const CudaQueue& queue, int64_t rows, int64_t width, const __half* gate_up,
              const ActivationRequest& request, const ActivationBuffer& out) {
  run_gate(
      queue, rows, request,
      {static_cast<int>(width), gate_up, true, request.prequant, request.static_scale, out.values, out.row_scales});
}

void quantize_rows(const CudaQueue& queue, int64_t rows, int64_t width, const __half* x,
                   const ActivationRequest& request, const ActivationBuffer& out) {
  run_gate(queue, rows, request,
           {static_cast<int>(width), x, false, request.prequant, request.static_scale, out.values, out.row_scales});
}

}  // namespace qg
