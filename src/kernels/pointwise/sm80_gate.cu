// SiLU gating and plain quantization of rows. Where no scale is sought, a row is spread over several blocks; where one
// is, by the kernel of sm90a_gate.cu, on the cards that have clusters.
#include "kernels/pointwise/block.cuh"
#include "kernels/pointwise/gate.cuh"

namespace qg {
namespace {

constexpr int kThreads = 256;

template <ActivationForm kForm>
__global__ void __launch_bounds__(kThreads) gate_kernel(GateArguments a) {
  let_next_start();
  wait_for_previous();
  const int64_t row = blockIdx.y;
  const int column = static_cast<int>(blockIdx.x * kThreads + threadIdx.x) * 8;
  if (column >= a.width) return;
  float x[8];
  values_at<kForm>(a, row, column, x);
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
    values_at<kForm>(a, row, column_of(c), x[c]);
#pragma unroll
    for (int i = 0; i < 8; ++i) largest = fmaxf(largest, fabsf(x[c][i]));
  }
  for (int column = column_of(kChunks); column < a.width; column += 1024 * 8) {
    float y[8];
    values_at<kForm>(a, row, column, y);
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
    values_at<kForm>(a, row, column, y);
    store<kForm>(row_of<kForm>(a, row), column, y, inverse);
  }
}

// kTo: f16 or bf16, from the other. Eight values a thread.
template <ActivationForm kFrom, ActivationForm kTo>
__global__ void __launch_bounds__(kThreads) convert_kernel(int64_t count, void* values) {
  let_next_start();
  wait_for_previous();
  const int64_t at = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * 8;
  if (at >= count) return;
  float x[8];
  load_eight<kFrom>(x, static_cast<const typename Wide<kFrom>::Type*>(values) + at);
  store<kTo>(values, at, x, 1.0f);
}

void run_gate(const CudaQueue& queue, int64_t rows, const ActivationRequest& request, const GateArguments& a) {
  if (rows == 0) return;
  const dim3 grid((static_cast<unsigned>(a.width) / 8 + kThreads - 1) / kThreads, static_cast<unsigned>(rows));
  using F = ActivationForm;
  if (!is_16_bit(request.form) && request.per_token && clusters_serve_gate(queue, rows, a.width))
    launch_gate_per_token_cluster(queue, rows, request.form, a);
  else if (request.form == F::f16)
    launch(queue, gate_kernel<F::f16>, grid, dim3(kThreads), 0, a);
  else if (request.form == F::bf16)
    launch(queue, gate_kernel<F::bf16>, grid, dim3(kThreads), 0, a);
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

void silu_mul(const CudaQueue& queue, int64_t rows, int64_t width, const void* gate_up,
              const ActivationRequest& request, const ActivationBuffer& out) {
  run_gate(queue, rows, request,
           {static_cast<int>(width), static_cast<const __half*>(gate_up), true, request.prequant, request.static_scale,
            out.values, out.row_scales});
}

void quantize_rows(const CudaQueue& queue, int64_t rows, int64_t width, const void* x, const ActivationRequest& request,
                   const ActivationBuffer& out) {
  run_gate(queue, rows, request,
           {static_cast<int>(width), static_cast<const __half*>(x), false, request.prequant, request.static_scale,
            out.values, out.row_scales});
}

void convert_in_place(const CudaQueue& queue, int64_t count, void* values, DType to) {
  if (count == 0) return;
  using F = ActivationForm;
  const dim3 grid(static_cast<unsigned>((count / 8 + kThreads - 1) / kThreads));
  launch(queue, to == DType::f16 ? convert_kernel<F::bf16, F::f16> : convert_kernel<F::f16, F::bf16>, grid,
         dim3(kThreads), 0, count, values);
}

}  // namespace qg
