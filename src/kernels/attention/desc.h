#pragma once
// Causal grouped-query attention over a paged KV cache: what is asked for, without pointers.
#include <cstdint>
#include <optional>
#include <string>

#include "kernels/kvcache/layout.h"

namespace qg {

struct AttentionDesc {
  int64_t heads = 0;  // query heads; kv.kv_heads divides it
  KvLayout kv;
  std::optional<int64_t> sliding_window;  // tokens that a query sees, itself included; empty = all
  double score_scale = 1;                 // scores are multiplied by it: 1 / sqrt(head_dim)
};

std::string to_string(const AttentionDesc& desc);  // "attention heads=9 kv_heads=3 head_dim=64 kv=fp8"

}  // namespace qg
