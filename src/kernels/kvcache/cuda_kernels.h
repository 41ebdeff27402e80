#pragma once
// Arguments and launches behind rope_and_append.
#include "kernels/kvcache/cuda.h"

namespace qg::kvcache {

struct ShapedArguments {
  KvLayout layout;
  CudaBatch batch;
  CudaQkv qkv;
  CudaKvShaping shaping;
  const float2* rope_table = nullptr;
  __half* q = nullptr;  // [rows, heads, head_dim], rotated already
  std::byte* pool = nullptr;
  float k_multiplier = 1;
  int64_t rows = 0;
};

// Keys after RoPE, shaped, to their pages; and the queries changed in place.
void launch_shaped(const CudaQueue& queue, const ShapedArguments& args);

}  // namespace qg::kvcache
