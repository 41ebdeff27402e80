#pragma once
#include <cstddef>
#include <cstdint>
#include <span>

#include "core/quant_spec.h"

namespace qg {

// Where the new tokens of one sequence go: row first_row + i becomes token context_tokens + i of the sequence.
struct KvAppendPiece {
  int64_t first_row = 0;
  int64_t num_tokens = 0;
  int64_t context_tokens = 0;
  std::span<const int32_t> pages;
};

struct KvAppendParams {
  const float* k = nullptr;  // [rows, kv_heads, head_dim], rows `stride` elements apart
  const float* v = nullptr;  // the same
  int64_t stride = 0;
  KvScale scale;  // of what is stored: of the shaped keys when shaping is set
  std::span<const KvAppendPiece> pieces;
  std::byte* pool = nullptr;           // one layer's pages, KvLayout
  const KvShaping* shaping = nullptr;  // of this layer, with fp8 and int8 only; null: keys are stored as they are
};

}  // namespace qg
