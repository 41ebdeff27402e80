#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/quant_spec.h"

namespace qg {

// Consecutive queries of one sequence. Query i stands at position context_tokens + i and sees all earlier positions and
// itself (or the window's part of them).
struct AttentionPiece {
  int64_t first_row = 0;  // of this piece in q and out
  int64_t num_tokens = 0;
  int64_t context_tokens = 0;
  std::span<const int32_t> pages;  // covering context_tokens + num_tokens tokens
};

struct AttentionParams {
  const float* q = nullptr;  // [rows, heads, head_dim], rows q_stride elements apart
  int64_t q_stride = 0;
  const std::byte* kv_pool = nullptr;  // this layer's pages, KvLayout; K and V of the pieces are already in
  KvScale scale;                       // of K and of V: value = code * scale (1 for fp16)
  std::span<const AttentionPiece> pieces;
  float* out = nullptr;  // [rows, heads, head_dim], dense
};

// Whole sequences with K and V in float, for calibration.
struct DenseAttentionParams {
  const float* q = nullptr;  // [rows, heads, head_dim], rows q_stride elements apart
  const float* k = nullptr;  // [rows, kv_heads, head_dim], rows kv_stride elements apart; v too
  const float* v = nullptr;
  int64_t q_stride = 0, kv_stride = 0;
  std::span<const int64_t> lengths;  // of the sequences; they lie one after the other
  float* out = nullptr;              // [rows, heads, head_dim], dense
};

}  // namespace qg
