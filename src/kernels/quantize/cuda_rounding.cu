#include "kernels/quantize/cuda_rounding.h"

#include <algorithm>

#include "kernels/pointwise/block.cuh"
#include "kernels/quantize/rounding.cuh"

namespace qg {
namespace {

constexpr int kThreads = 256;
constexpr int64_t kFoldSlices = 16;
constexpr unsigned kErrorBlocks = 1024;

unsigned blocks_of(int64_t count, int64_t each) {
  return static_cast<unsigned>((count + each - 1) / each);
}

// A row's largest |w * up|, in a block of kThreads.
template <class Value>
__device__ float absmax_of_row(int64_t k, const Value& value) {
  float largest = 0;
  for (int64_t c = threadIdx.x; c < k; c += kThreads) largest = fmaxf(largest, fabsf(value(c)));
  return block_max<kThreads>(largest);
}

__global__ void __launch_bounds__(kThreads) largest_of_rows(const float* w, const float* up, int64_t k, float* amax) {
  const float* row = w + blockIdx.x * k;
  const float largest = absmax_of_row(k, [&](int64_t c) { return up ? __fmul_rn(row[c], up[c]) : row[c]; });
  if (threadIdx.x == 0) amax[blockIdx.x] = largest;
}

__global__ void __launch_bounds__(kThreads) fold_columns(const float* w, int64_t n, int64_t k, double* partial) {
  const int64_t column = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x, slice = blockIdx.y;
  if (column >= k) return;
  float largest = 0;
  for (int64_t r = n * slice / kFoldSlices; r < n * (slice + 1) / kFoldSlices; ++r)
    largest = fmaxf(largest, fabsf(w[r * k + column]));
  partial[slice * k + column] = static_cast<double>(largest);
}

__global__ void __launch_bounds__(kThreads) fold_slices(const double* partial, int64_t k, double* out) {
  const int64_t column = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (column >= k) return;
  double largest = 0;
  for (int64_t slice = 0; slice < kFoldSlices; ++slice) largest = fmax(largest, partial[slice * k + column]);
  out[column] = largest;
}

__global__ void __launch_bounds__(kThreads)
    fp8_errors(const float* w, const float* moments, const float* base, int64_t k, double* errors) {
  const float* row = w + blockIdx.x * k;
  float scales[kFp8Steps], sums[kFp8Steps] = {};
#pragma unroll
  for (int i = 0; i < kFp8Steps; ++i)
    scales[i] = __fmul_rn(base[blockIdx.x], exp2f(static_cast<float>(i) / static_cast<float>(kFp8Steps)));
  for (int64_t c = threadIdx.x; c < k; c += kThreads) {
    const float v = row[c], moment = moments[c];
#pragma unroll
    for (int i = 0; i < kFp8Steps; ++i) {
      const float gap = v - __fmul_rn(e4m3_value(e4m3_code(__fdiv_rn(v, scales[i]))), scales[i]);
      sums[i] += moment * gap * gap;
    }
  }
#pragma unroll
  for (int i = 0; i < kFp8Steps; ++i) {
    if (i > 0) __syncthreads();  // the sum before has been read by all warps
    const float sum = block_sum<kThreads>(sums[i]);
    if (threadIdx.x == 0) errors[blockIdx.x * static_cast<int64_t>(kFp8Steps) + i] = static_cast<double>(sum);
  }
}

template <bool kFp8>
__global__ void __launch_bounds__(kThreads)
    codes_of_rows(const __half* x, const float* down, float scale, int64_t k, __half* codes, float* row_scales) {
  const __half* row = x + blockIdx.x * k;
  const auto value = [&](int64_t c) {
    const float v = __half2float(row[c]);
    return down ? __fmul_rn(v, down[c]) : v;
  };
  if (scale == 0) {
    const float largest = absmax_of_row(k, value);
    scale = largest > 0 ? __fdiv_rn(largest, kFp8 ? 448.0f : 127.0f) : 1.0f;
    if (threadIdx.x == 0) row_scales[blockIdx.x] = scale;
  }
  for (int64_t c = threadIdx.x; c < k; c += kThreads) {
    const float v = __fdiv_rn(value(c), scale);
    codes[blockIdx.x * k + c] = kFp8 ? e4m3_half(e4m3_code(v)) : __float2half_rn(int8_code(v));
  }
}

__global__ void __launch_bounds__(kThreads)
    int8_codes(const float* w, const float* up, const float* amax, int64_t k, __half* codes, float* scales) {
  const float* row = w + blockIdx.x * k;
  const float scale = amax[blockIdx.x] > 0 ? __fdiv_rn(amax[blockIdx.x], 127.0f) : 1.0f;
  if (threadIdx.x == 0) scales[blockIdx.x] = scale;
  for (int64_t c = threadIdx.x; c < k; c += kThreads)
    codes[blockIdx.x * k + c] = __float2half_rn(int8_code(__fdiv_rn(up ? __fmul_rn(row[c], up[c]) : row[c], scale)));
}

template <bool kFp8>
__global__ void __launch_bounds__(kThreads) expand(const uint8_t* codes, int64_t count, __half* out) {
  const int64_t stride = static_cast<int64_t>(gridDim.x) * kThreads;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x; i < count; i += stride)
    out[i] = kFp8 ? e4m3_half(codes[i]) : __int2half_rn(static_cast<int8_t>(codes[i]));
}

__global__ void __launch_bounds__(kThreads)
    delta_of_int4(const float* w, const uint8_t* codes, CodeScales s, const float* down, int64_t k, __half* delta) {
  const int64_t row = blockIdx.x;
  for (int64_t c = threadIdx.x; c < k; c += kThreads) {
    const int64_t at = row * s.groups + c / s.group;
    const float value = int4_value(codes[row * k + c], s.scales[at], s.zeros[at]);
    delta[row * k + c] = __float2half_rn(w[row * k + c] - (down ? value * down[c] : value));
  }
}

__global__ void __launch_bounds__(kThreads) pack_nibbles(const uint8_t* codes, int64_t pairs, uint8_t* packed) {
  const int64_t i = blockIdx.x * static_cast<int64_t>(kThreads) + threadIdx.x;
  if (i < pairs) packed[i] = static_cast<uint8_t>(codes[2 * i] | codes[2 * i + 1] << 4);
}

template <class Rounding>
__global__ void __launch_bounds__(kThreads)
    round_rows(const float* w, const float* up, Rounding rounding, int64_t k, uint8_t* codes) {
  const int64_t row = blockIdx.x;
  for (int64_t c = threadIdx.x; c < k; c += kThreads) {
    const float v = w[row * k + c];
    rounding(row, c, up ? __fmul_rn(v, up[c]) : v, codes + row * k + c);
  }
}

__device__ double block_sum_of_doubles(double value) {
  __shared__ double partial[kThreads];
  partial[threadIdx.x] = value;
  __syncthreads();
  for (int half = kThreads / 2; half > 0; half /= 2) {
    if (static_cast<int>(threadIdx.x) < half) partial[threadIdx.x] += partial[threadIdx.x + half];
    __syncthreads();
  }
  return partial[0];
}

__global__ void __launch_bounds__(kThreads)
    square_gaps(const float* y, const float* product, const float* row_scales, const float* column_scales, float scale,
                int64_t rows, int64_t n, double* partial) {
  double total = 0;
  for (int64_t r = blockIdx.x; r < rows; r += gridDim.x) {
    const float row_scale = row_scales ? row_scales[r] * scale : scale;
    float sum = 0;
    for (int64_t c = threadIdx.x; c < n; c += kThreads) {
      const float value = product[r * n + c] * (column_scales ? column_scales[c] * row_scale : row_scale);
      const float gap = y ? y[r * n + c] - value : value;
      sum += gap * gap;
    }
    total += static_cast<double>(sum);
  }
  const double all = block_sum_of_doubles(total);
  if (threadIdx.x == 0) partial[blockIdx.x] = all;
}

__global__ void __launch_bounds__(kThreads) add_partials(const double* partial, int count, double* sum) {
  double total = 0;
  for (int i = static_cast<int>(threadIdx.x); i < count; i += kThreads) total += partial[i];
  const double all = block_sum_of_doubles(total);
  if (threadIdx.x == 0) *sum = all;
}

}  // namespace

void row_absmax(const CudaQueue& queue, const float* w, const float* up, int64_t n, int64_t k, float* amax) {
  launch(queue, largest_of_rows, dim3(static_cast<unsigned>(n)), dim3(kThreads), 0, w, up, k, amax);
}

void column_absmax(const CudaQueue& queue, const float* w, int64_t n, int64_t k, double* out, double* scratch) {
  launch(queue, fold_columns, dim3(blocks_of(k, kThreads), kFoldSlices), dim3(kThreads), 0, w, n, k, scratch);
  launch(queue, fold_slices, dim3(blocks_of(k, kThreads)), dim3(kThreads), 0, static_cast<const double*>(scratch), k,
         out);
}

void fp8_weight_errors(const CudaQueue& queue, const float* w, const float* moments, const float* base, int64_t n,
                       int64_t k, double* errors) {
  launch(queue, fp8_errors, dim3(static_cast<unsigned>(n)), dim3(kThreads), 0, w, moments, base, k, errors);
}

void activation_codes(const CudaQueue& queue, WeightFormat format, const __half* x, const float* down, float scale,
                      int64_t rows, int64_t k, __half* codes, float* row_scales) {
  launch(queue, format == WeightFormat::fp8 ? codes_of_rows<true> : codes_of_rows<false>,
         dim3(static_cast<unsigned>(rows)), dim3(kThreads), 0, x, down, scale, k, codes, row_scales);
}

void int8_weight_codes(const CudaQueue& queue, const float* w, const float* up, const float* amax, int64_t n, int64_t k,
                       __half* codes, float* scales) {
  launch(queue, int8_codes, dim3(static_cast<unsigned>(n)), dim3(kThreads), 0, w, up, amax, k, codes, scales);
}

void codes_as_half(const CudaQueue& queue, WeightFormat format, const uint8_t* codes, int64_t count, __half* out) {
  launch(queue, format == WeightFormat::fp8 ? expand<true> : expand<false>,
         dim3(std::min(4096u, blocks_of(count, kThreads))), dim3(kThreads), 0, codes, count, out);
}

void int4_delta(const CudaQueue& queue, const float* w, const uint8_t* codes, const CodeScales& scales,
                const float* down, int64_t n, int64_t k, __half* delta) {
  launch(queue, delta_of_int4, dim3(static_cast<unsigned>(n)), dim3(kThreads), 0, w, codes, scales, down, k, delta);
}

void pack_int4(const CudaQueue& queue, const uint8_t* codes, int64_t count, uint8_t* packed) {
  launch(queue, pack_nibbles, dim3(blocks_of(count / 2, kThreads)), dim3(kThreads), 0, codes, count / 2, packed);
}

void round_to_nearest(const CudaQueue& queue, const float* w, const float* up, const CodeScales& scales, int64_t n,
                      int64_t k, uint8_t* codes) {
  with_rounding(scales, [&](auto rounding) {
    launch(queue, round_rows<decltype(rounding)>, dim3(static_cast<unsigned>(n)), dim3(kThreads), 0, w, up, rounding, k,
           codes);
  });
}

int64_t square_error_scratch_bytes() {
  return kErrorBlocks * static_cast<int64_t>(sizeof(double));
}

void square_error(const CudaQueue& queue, const float* y, const float* product, const float* row_scales,
                  const float* column_scales, float scale, int64_t rows, int64_t n, double* sum, void* scratch) {
  const auto blocks = static_cast<unsigned>(std::min<int64_t>(kErrorBlocks, rows));
  launch(queue, square_gaps, dim3(blocks), dim3(kThreads), 0, y, product, row_scales, column_scales, scale, rows, n,
         static_cast<double*>(scratch));
  launch(queue, add_partials, dim3(1), dim3(kThreads), 0, static_cast<const double*>(scratch), static_cast<int>(blocks),
         sum);
}

}  // namespace qg
