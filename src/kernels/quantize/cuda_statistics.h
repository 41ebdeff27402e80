#pragma once
// What a quantizer remembers of the activations that a linear layer reads, gathered on the GPU from pieces of rows. The
// same numbers as ActivationCollector's (src/quantize/calibration.h), in another order of summation.
#include <cuda_fp16.h>

#include <cstdint>

#include "core/dtype.h"
#include "kernels/common/cuda.h"

namespace qg {

// Scratch of add_column_statistics.
int64_t column_statistics_scratch_bytes(int64_t k);

// absmax[c] = max(absmax[c], |x|), abs_sum[c] += |x| over the rows of x [rows, k], k even. Infinity and NaN end up in
// abs_sum.
void add_column_statistics(const CudaQueue& queue, const __half* x, int64_t rows, int64_t k, float* absmax,
                           double* abs_sum, void* scratch);

// out[i] = x[rows[i] - first_row], rows of k halves; k even.
void gather_rows(const CudaQueue& queue, const __half* x, const int32_t* rows, int64_t count, int64_t first_row,
                 int64_t k, __half* out);

// moments[c] = sum over rows of x[r][c]^2, rows in order.
void column_moments(const CudaQueue& queue, const __half* x, int64_t rows, int64_t k, float* moments);

// out = x as float, x of F16, BF16 or F32.
void widen(const CudaQueue& queue, const void* x, DType type, int64_t count, float* out);
// out = x as half, x of BF16 or F32; *overflow becomes 1 where a value is beyond half's range or not finite.
void narrow(const CudaQueue& queue, const void* x, DType type, int64_t count, __half* out, int32_t* overflow);

// residual += delta.
void add_half(const CudaQueue& queue, const __half* delta, int64_t count, float* residual);
// out [rows, width] = silu(gate) * up; gate_up [rows, 2 * width]: a row's gate, then its up.
void silu_mul_joined(const CudaQueue& queue, const __half* gate_up, int64_t rows, int64_t width, __half* out);

}  // namespace qg
