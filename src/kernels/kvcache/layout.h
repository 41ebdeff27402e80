#pragma once
// Byte arithmetic of one page of the KV cache, shared by every executor: [page][K|V][kv_head][token][head_dim], so that
// one head's tokens of a page are contiguous (coalesced, and what the paged attention kernels on GPUs read). A layer
// has a pool of pages of its own; the same page number names the same tokens in every layer.
#include <cstdint>

#include "core/format.h"

#if defined(__CUDACC__)
#define QG_HOST_DEVICE __host__ __device__
#else
#define QG_HOST_DEVICE
#endif

namespace qg {

struct KvLayout {
  KvFormat format = KvFormat::fp16;
  int64_t kv_heads = 0, head_dim = 0;
  int64_t page_tokens = 16;

  QG_HOST_DEVICE int64_t element_size() const { return format == KvFormat::fp16 ? 2 : 1; }
  QG_HOST_DEVICE int64_t head_bytes() const { return page_tokens * head_dim * element_size(); }
  QG_HOST_DEVICE int64_t page_bytes() const { return 2 * kv_heads * head_bytes(); }  // K and V of one layer
  // Offset of element 0 of one token's head within a layer's pool. which: 0 = K, 1 = V.
  QG_HOST_DEVICE int64_t offset(int64_t page, int which, int64_t kv_head, int64_t token_in_page) const {
    return page * page_bytes() +
           ((which * kv_heads + kv_head) * page_tokens + token_in_page) * head_dim * element_size();
  }
};

}  // namespace qg
