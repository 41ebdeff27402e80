#pragma once
// Shaped keys: the definition of what is done to keys and queries around an 8-bit cache (docs/kv-cache-notes.md). Each
// row and head is computed by itself, in a fixed order, with every multiply-add rounded to float once.
#include <cstddef>
#include <cstdint>

#include "core/format.h"
#include "core/quant_spec.h"

namespace qg {

// out[i] = sum over j, from 0 upwards, of matrix[j][i] * x[j]. matrix [n, n]; out may not overlap x.
void apply_rows(const float* matrix, const float* x, float* out, int64_t n);

// One key after RoPE, [head_dim], to what is to be rounded: (x - center) through the transform of its head.
void shape_key(const KvShaping& shaping, int64_t kv_head, int64_t head_dim, const float* x, float* out);

// Queries after RoPE, in place: q [rows, heads, head_dim], rows `stride` elements apart. Consecutive heads / kv_heads
// of them share a KV head.
void shape_queries(const KvShaping& shaping, int64_t heads, int64_t kv_heads, int64_t head_dim, float* q,
                   int64_t stride, int64_t rows);

// Rounds x (already divided by the scale; destroyed) element after element to codes of fp8 or int8; each error is taken
// from the elements to come as `feedback` [n, n] says: x[i] -= error(j) * feedback[j][i] for i > j.
void encode_with_feedback(KvFormat format, const float* feedback, float* x, std::byte* to, int64_t n);

// A key from RoPE to its stored bytes. scratch: head_dim floats.
void store_shaped_key(const KvShaping& shaping, KvFormat format, float scale, int64_t kv_head, int64_t head_dim,
                      const float* x, std::byte* to, float* scratch);

}  // namespace qg
