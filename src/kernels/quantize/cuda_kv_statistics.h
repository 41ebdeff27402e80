#pragma once
// What calibration learns of keys and values on the GPU: for the scales of an 8-bit cache, and for the matrices by
// which keys are shaped (docs/kv-cache-notes.md). src/quantize/kv_scales.cc and kv_shaping.cc are the definitions.
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/attention/cuda_batch.h"
#include "kernels/common/cuda.h"
#include "kernels/kvcache/layout.h"

namespace qg {

// keys [rows, kv_heads * head_dim]: what lies in an fp16 cache for the batch's rows, dense.
void gather_keys(const CudaQueue& queue, const KvLayout& layout, const CudaBatch& batch, int64_t rows,
                 const std::byte* layer_pool, __half* keys);

// *amax = max(*amax, |x|) over [rows, width], rows `stride` elements apart; NaN counts as larger than all.
void largest_magnitude(const CudaQueue& queue, const __half* x, int64_t rows, int64_t width, int64_t stride,
                       float* amax);
// Element i of the concatenated rows goes to sample[i / every] when `every` divides it; the first row is row first_row.
void take_every(const CudaQueue& queue, const __half* x, int64_t rows, int64_t width, int64_t stride, int64_t first_row,
                int64_t every, float* sample);
// errors[i] = sum over the sample of (x - rounded(x, base * (1 - i / 40)))^2, int8, i = 0 .. kInt8ScaleSteps - 1.
inline constexpr int kInt8ScaleSteps = 21;
void int8_scale_errors(const CudaQueue& queue, const float* sample, int64_t count, const float* amax, double* errors);

// Sums over all queries and keys seen, a KV head each.
struct KvSums {
  double* query_gram = nullptr;  // [kv_heads, head_dim, head_dim]
  double* key_moment = nullptr;  // [kv_heads, head_dim, head_dim]
  double* key_sum = nullptr;     // [kv_heads, head_dim]
  double* plain_sum = nullptr;   // [kv_heads, head_dim]
  double* key_weight = nullptr;  // [kv_heads]
};
// Scratch for one sequence of `rows` tokens, of which m queries are looked at.
struct KvScratch {
  float *scores = nullptr, *cross = nullptr;     // [heads, m, rows]
  float *values = nullptr, *squares = nullptr;   // [heads, rows, head_dim], [heads, rows]
  float *outputs = nullptr, *queries = nullptr;  // [heads, m, head_dim]
  float* weights = nullptr;                      // [kv_heads, rows]
};
struct KvSequence {
  const __half *q = nullptr, *k = nullptr, *v = nullptr;  // row r of k starts at r * k_stride, and so on
  int64_t q_stride = 0, k_stride = 0, v_stride = 0;
  int64_t rows = 0, queries = 0, step = 1;  // query i is that of row rows - 1 - i * step
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  int64_t window = 0;                    // tokens that a query sees; 0: all before it and itself
  const float* output_factor = nullptr;  // [heads, head_dim, head_dim]
};
void add_kv_sequence(const CudaQueue& queue, const KvSequence& sequence, const KvScratch& scratch, const KvSums& sums);

// grams [heads, head_dim, head_dim] = per head, sum over rows of the head's columns of w [rows, heads * head_dim].
void head_grams(const CudaQueue& queue, const __half* w, int64_t rows, int64_t heads, int64_t head_dim, double* grams);
// *largest = max(*largest, |shaped element|) over keys [rows, kv_heads * head_dim], shaped by center and transform.
void largest_shaped(const CudaQueue& queue, const __half* keys, int64_t rows, int64_t kv_heads, int64_t head_dim,
                    const float* center, const float* transform, float* largest);

}  // namespace qg
