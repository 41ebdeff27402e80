#pragma once
// The operations between matrix products, in float on the CPU. Rows are independent; parallel over rows. `m` is rows.
#include <cstdint>
#include <span>
#include <vector>

#include "core/dtype.h"
#include "core/model_shape.h"

namespace qg {

// out[i] = x[i] / sqrt(mean(x[i]^2) + epsilon) * weight; x and out [m, width], may be the same.
void rms_norm(const float* x, const float* weight, double epsilon, float* out, int64_t m, int64_t width);

// Cosine and sine of every angle of RoPE: [positions, head_dim / 2] each, computed in double.
struct RopeTable {
  std::vector<float> cosine, sine;
};
// Angle of position p and pair i: p * theta^(-2i / head_dim), frequencies rescaled as "llama3" RoPE scaling says.
std::vector<double> rope_frequencies(const ModelShape& shape);
RopeTable make_rope_table(const std::vector<double>& frequencies, std::span<const int64_t> positions);
// In place on x [m, heads, head_dim], rows `stride` elements apart: pairs are (i, i + head_dim / 2), as Hugging Face
// folders have them. Row r uses row r of the table.
void rope(const RopeTable& table, float* x, int64_t stride, int64_t m, int64_t heads, int64_t head_dim);

// out = silu(gate) * up, silu(x) = x / (1 + exp(-x)); [m, width] each; out may be gate or up.
void silu_mul(const float* gate, const float* up, float* out, int64_t m, int64_t width);

// x += y, [m, width].
void add(float* x, const float* y, int64_t m, int64_t width);

// out[i] = table[tokens[i]]; table [vocab, width] of F16, BF16 or F32. Tokens must be within the table.
void embedding(DType dtype, const void* table, std::span<const int32_t> tokens, float* out, int64_t width);

// Quantizes x [m, width] (times multiplier[width] where not null) to codes, which come out as floats (e4m3 values and
// integers are exact), rows `ldq` apart, the rest of each row zero. q = round(x * (1/scale)), to nearest even,
// saturating at 448 or 127. scales [m] are what was used: `static_scale` when > 0, else amax of the row / 448 or 127
// (at least the smallest normal float, so that a row of zeros gives zeros).
void quantize_activation_fp8(const float* x, const float* multiplier, float static_scale, float* q, int64_t ldq,
                             float* scales, int64_t m, int64_t width);
void quantize_activation_int8(const float* x, const float* multiplier, float static_scale, float* q, int64_t ldq,
                              float* scales, int64_t m, int64_t width);

}  // namespace qg
