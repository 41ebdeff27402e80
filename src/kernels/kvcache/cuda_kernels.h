#pragma once
// Arguments and launches behind rope_and_append.
#include "kernels/kvcache/cuda.h"

namespace qg::kvcache {

struct AppendArguments {
  KvLayout layout;
  CudaBatch batch;
  CudaQkv qkv;
  const float2* rope_table = nullptr;
  __half* q = nullptr;  // [rows, heads, head_dim]
  std::byte* pool = nullptr;
  float k_multiplier = 1, v_multiplier = 1;
  int64_t rows = 0;
};

struct ShapedArguments : AppendArguments {
  CudaKvShaping shaping;
};

// All of rope_and_append with shaped keys. few: rows of a decoding step, where what counts is how long one key takes;
// many: matrices are shared by 64 rows and what counts is how many instructions a key takes.
// few: where it fits into a block's shared memory, shared_bytes of it (0: what the card has); many fits everywhere.
bool shaped_few_fits(const KvLayout& layout, int64_t heads, int64_t rows, int64_t shared_bytes);
void launch_shaped_few(const CudaQueue& queue, const ShapedArguments& args);
void launch_shaped_many(const CudaQueue& queue, const ShapedArguments& args);

}  // namespace qg::kvcache
