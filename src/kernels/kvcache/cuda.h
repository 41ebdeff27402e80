#pragma once
// Storing new keys and values in the paged cache on a GPU.
#include <cuda_fp16.h>

#include <cstddef>
#include <cstdint>

#include "core/quant_spec.h"
#include "kernels/attention/cuda_batch.h"
#include "kernels/common/cuda.h"
#include "kernels/kvcache/layout.h"

namespace qg {

// What the QKV product left: row r has heads of q, then of k, then of v; rows `stride` elements apart.
struct CudaQkv {
  const __half* rows = nullptr;
  int64_t stride = 0;
  int64_t heads = 0;  // of q; those of k and v are the layout's
};

// KvShaping of one layer on the device: what is done to keys and queries around an 8-bit cache.
struct CudaKvShaping {
  const float* k_center = nullptr;      // [kv_heads, head_dim]
  const __half* k_transform = nullptr;  // [kv_heads, head_dim, head_dim]; the values are exact in f16, and those below
  const __half* q_transform = nullptr;
  const __half* k_feedback = nullptr;
};

// RoPE on q and k, and K (after RoPE) and V into their pages, in one launch. q goes to q_out [rows, heads, head_dim],
// dense. rope_table [positions, head_dim / 2] of (cosine, sine), what make_rope_table computes; pairs are
// (i, i + head_dim / 2). Elements are stored as kv_encode stores them. Head sizes 64 and 128.
// Rows of qkv, its heads and q_out start at multiples of 16 bytes. With shaping (fp8 and int8 only), keys and queries
// are changed as docs/kv-cache-notes.md says and scale.k is that of the shaped keys; its matrices start at multiples of
// 16 bytes too. shared_bytes: of a block's shared memory, what may be used (a target's, docs/engine.md); 0: what the
// card has. In a chain: reads `qkv` after wait_for_previous().
void rope_and_append(const CudaQueue& queue, const KvLayout& layout, const CudaBatch& batch, int64_t rows,
                     const CudaQkv& qkv, const float2* rope_table, KvScale scale, __half* q_out, std::byte* layer_pool,
                     const CudaKvShaping* shaping = nullptr, int64_t shared_bytes = 0);

}  // namespace qg
