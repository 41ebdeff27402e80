#include <algorithm>

#include "kernels/quantize/cuda_kv_statistics.h"

namespace qg {
namespace {

constexpr int kThreads = 256;

unsigned blocks_of(int64_t count, int64_t most) {
  return static_cast<unsigned>(std::clamp<int64_t>((count + kThreads - 1) / kThreads, 1, most));
}

__global__ void __launch_bounds__(kThreads)
    copy_keys(KvLayout layout, CudaBatch batch, int64_t rows, const std::byte* pool, __half2* keys) {
  const int64_t row = blockIdx.x;
  const int64_t piece = batch.row_piece[row], position = batch.row_position[row];
  const int64_t page = batch.page_table[piece * batch.max_pages + position / layout.page_tokens];
  const int64_t half_dim = layout.head_dim / 2;
  for (int64_t c = threadIdx.x; c < layout.kv_heads * half_dim; c += kThreads) {
    const std::byte* at = pool + layout.offset(page, 0, c / half_dim, position % layout.page_tokens);
    keys[row * layout.kv_heads * half_dim + c] = reinterpret_cast<const __half2*>(at)[c % half_dim];
  }
}

__global__ void __launch_bounds__(kThreads)
    find_largest(const __half* x, int64_t rows, int64_t width, int64_t stride, unsigned* amax) {
  unsigned largest = 0;  // bits of a float that is not negative order as the float does, NaN last
  const int64_t step = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; i < rows * width; i += step)
    largest = max(largest, __float_as_uint(fabsf(__half2float(x[i / width * stride + i % width]))));
  largest = __reduce_max_sync(~0u, largest);
  if (threadIdx.x % 32 == 0) atomicMax(amax, largest);
}

__global__ void __launch_bounds__(kThreads) take(const __half* x, int64_t rows, int64_t width, int64_t stride,
                                                 int64_t first_row, int64_t every, float* sample) {
  const int64_t begin = first_row * width, end = begin + rows * width, first = (begin + every - 1) / every;
  const int64_t at = first + blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (at * every >= end) return;
  const int64_t i = at * every - begin;
  sample[at] = __half2float(x[i / width * stride + i % width]);
}

// A scale a block.
__global__ void __launch_bounds__(kThreads)
    scale_error(const float* sample, int64_t count, const float* amax, double* errors) {
  __shared__ double partial[kThreads];
  const float base = __fdiv_rn(*amax, 127.0f);
  const float scale =
      __fmul_rn(base, __fadd_rn(1.0f, -__fmul_rn(0.025f, static_cast<float>(static_cast<int>(blockIdx.x)))));
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) {
    const float v = sample[i], code = fminf(fmaxf(rintf(__fdiv_rn(v, scale)), -127.0f), 127.0f);
    const float gap = __fadd_rn(v, -__fmul_rn(code, scale));
    sum += static_cast<double>(__fmul_rn(gap, gap));
  }
  partial[threadIdx.x] = sum;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    __syncthreads();
  }
  if (threadIdx.x == 0) errors[blockIdx.x] = partial[0];
}

}  // namespace

void gather_keys(const CudaQueue& queue, const KvLayout& layout, const CudaBatch& batch, int64_t rows,
                 const std::byte* layer_pool, __half* keys) {
  launch(queue, copy_keys, dim3(static_cast<unsigned>(rows)), dim3(kThreads), 0, layout, batch, rows, layer_pool,
         reinterpret_cast<__half2*>(keys));
}

void largest_magnitude(const CudaQueue& queue, const __half* x, int64_t rows, int64_t width, int64_t stride,
                       float* amax) {
  launch(queue, find_largest, dim3(blocks_of(rows * width, 1024)), dim3(kThreads), 0, x, rows, width, stride,
         reinterpret_cast<unsigned*>(amax));
}

void take_every(const CudaQueue& queue, const __half* x, int64_t rows, int64_t width, int64_t stride, int64_t first_row,
                int64_t every, float* sample) {
  launch(queue, take, dim3(blocks_of(rows * width / every + 1, int64_t{1} << 30)), dim3(kThreads), 0, x, rows, width,
         stride, first_row, every, sample);
}

void int8_scale_errors(const CudaQueue& queue, const float* sample, int64_t count, const float* amax, double* errors) {
  launch(queue, scale_error, dim3(kInt8ScaleSteps), dim3(kThreads), 0, sample, count, amax, errors);
}

}  // namespace qg
