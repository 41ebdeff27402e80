#pragma once
// Searching scales and rounding weights on the GPU. Weights are float [n, k]; the methods are those of src/quantize
// (docs/quantization.md), which is the definition.
#include <cuda_fp16.h>

#include <cstdint>

#include "core/format.h"
#include "kernels/common/cuda.h"

namespace qg {

// What the codes of a weight mean. fp8 and int8_sq: a scale a row. int4_awq: a scale and a zero for each `group`
// columns.
struct CodeScales {
  WeightFormat format = WeightFormat::fp8;
  const float* scales = nullptr;   // [n] or [n, groups]
  const uint8_t* zeros = nullptr;  // [n, groups]
  int64_t groups = 0, group = 0;
};

// amax[r] = max |w[r][c] * up[c]|; up null: ones.
void row_absmax(const CudaQueue& queue, const float* w, const float* up, int64_t n, int64_t k, float* amax);
// out[c] = max over rows of |w[r][c]|. scratch: 16 * k doubles.
void column_absmax(const CudaQueue& queue, const float* w, int64_t n, int64_t k, double* out, double* scratch);

inline constexpr int kFp8Steps = 16;  // of the search over one octave
// errors[r][i] = sum over columns of moments[c] * (w - rounded(w, base[r] * 2^(i / 16)))^2. base [n].
void fp8_weight_errors(const CudaQueue& queue, const float* w, const float* moments, const float* base, int64_t n,
                       int64_t k, double* errors);

// Codes of activations as halves, which hold them exactly. fp8 with scale > 0: e4m3(x / scale). scale = 0: a scale of
// each row, amax / 448 or, for int8, of x * down, amax / 127, which goes to row_scales.
void activation_codes(const CudaQueue& queue, WeightFormat format, const __half* x, const float* down, float scale,
                      int64_t rows, int64_t k, __half* codes, float* row_scales);
// The same for weights, int8 only: codes of w * up with scales amax / 127 (1 for a row of zeros).
void int8_weight_codes(const CudaQueue& queue, const float* w, const float* up, const float* amax, int64_t n, int64_t k,
                       __half* codes, float* scales);
// The stored codes of fp8 or int8 as halves.
void codes_as_half(const CudaQueue& queue, WeightFormat format, const uint8_t* codes, int64_t count, __half* out);

// One trial of int4: each group's grid is chosen as choose_grids does (clip_steps; 0: the whole range), weights being
// w * up. delta [n, k] = w - rounded * down: what is lost, as the input sees it. Outputs may be null. up and down null:
// ones. importance [k] weighs the squared error of a column.
struct Int4Trial {
  const float *up = nullptr, *down = nullptr, *importance = nullptr;
  int64_t group = 128;
  bool zero_points = false;
  int clip_steps = 0;
  __half* delta = nullptr;
  float* scales = nullptr;   // [n, k / group]
  uint8_t* zeros = nullptr;  // [n, k / group]
};
void int4_trial(const CudaQueue& queue, const float* w, int64_t n, int64_t k, const Int4Trial& trial);
// delta [n, k] = w - value(codes) * down.
void int4_delta(const CudaQueue& queue, const float* w, const uint8_t* codes, const CodeScales& scales,
                const float* down, int64_t n, int64_t k, __half* delta);
// packed [n, k / 2]: the low nibble is the even column.
void pack_int4(const CudaQueue& queue, const uint8_t* codes, int64_t count, uint8_t* packed);

// Rounds w * up to nearest.
void round_to_nearest(const CudaQueue& queue, const float* w, const float* up, const CodeScales& scales, int64_t n,
                      int64_t k, uint8_t* codes);

// *sum = sum over [rows, n] of (y - product * row_scales[r] * column_scales[c] * scale)^2. y null: 0; scales null: 1.
// scratch: square_error_scratch_bytes(). The order of summation is fixed.
int64_t square_error_scratch_bytes();
void square_error(const CudaQueue& queue, const float* y, const float* product, const float* row_scales,
                  const float* column_scales, float scale, int64_t rows, int64_t n, double* sum, void* scratch);

}  // namespace qg
