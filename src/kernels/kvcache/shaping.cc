#include "kernels/kvcache/shaping.h"

#include <algorithm>
#include <vector>

#include "core/float.h"
#include "core/multiversion.h"
#include "core/parallel.h"

namespace qg {
namespace {

// Fused: half the instructions on a GPU, and the same bits from a C library that has to do without the instruction.
QG_MULTIVERSION void add_row(const float* row, float factor, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = __builtin_fmaf(row[i], factor, out[i]);
}

// The value of x's code, which is stored at `to`. The bytes are kv_encode's with a scale of 1.
float store_code(KvFormat format, float x, std::byte* to) {
  if (format == KvFormat::fp8) {
    const uint8_t code = e4m3_from_f32(x);
    *to = std::byte{code};
    return f32_from_e4m3(code);
  }
  const float below = x < 127.0f ? x : 127.0f, clamped = below > -127.0f ? below : -127.0f;
  const float value = (clamped + 12582912.0f) - 12582912.0f;  // 1.5 * 2^23: rounds to an integer, ties to even
  *to = static_cast<std::byte>(static_cast<int8_t>(value));
  return value;
}

}  // namespace

void apply_rows(const float* matrix, const float* x, float* out, int64_t n) {
  for (int64_t i = 0; i < n; ++i) out[i] = matrix[i] * x[0];
  for (int64_t j = 1; j < n; ++j) add_row(matrix + j * n, x[j], out, n);
}

void shape_key(const KvShaping& shaping, int64_t kv_head, int64_t head_dim, const float* x, float* out) {
  const float* center = shaping.k_center.data() + kv_head * head_dim;
  const float* matrix = shaping.k_transform.data() + kv_head * head_dim * head_dim;
  for (int64_t i = 0; i < head_dim; ++i) out[i] = matrix[i] * (x[0] - center[0]);
  for (int64_t j = 1; j < head_dim; ++j) add_row(matrix + j * head_dim, x[j] - center[j], out, head_dim);
}

void shape_queries(const KvShaping& shaping, int64_t heads, int64_t kv_heads, int64_t head_dim, float* q,
                   int64_t stride, int64_t rows) {
  const int64_t group = heads / kv_heads;
  parallel_for(rows, 8, [&](int64_t begin, int64_t end) {
    std::vector<float> shaped(static_cast<size_t>(head_dim));
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t head = 0; head < heads; ++head) {
        float* x = q + row * stride + head * head_dim;
        apply_rows(shaping.q_transform.data() + head / group * head_dim * head_dim, x, shaped.data(), head_dim);
        std::copy(shaped.begin(), shaped.end(), x);
      }
    }
  });
}

void encode_with_feedback(KvFormat format, const float* feedback, float* x, std::byte* to, int64_t n) {
  for (int64_t j = 0; j < n; ++j) {
    const float error = x[j] - store_code(format, x[j], to + j);
    add_row(feedback + j * n + j + 1, -error, x + j + 1, n - j - 1);
  }
}

void store_shaped_key(const KvShaping& shaping, KvFormat format, float scale, int64_t kv_head, int64_t head_dim,
                      const float* x, std::byte* to, float* scratch) {
  shape_key(shaping, kv_head, head_dim, x, scratch);
  const float multiplier = 1.0f / scale;
  for (int64_t i = 0; i < head_dim; ++i) scratch[i] *= multiplier;
  encode_with_feedback(format, shaping.k_feedback.data() + kv_head * head_dim * head_dim, scratch, to, head_dim);
}

}  // namespace qg
