#pragma once
// Bytes: weights, KV cache, greatest batch, disk. All of it is arithmetic on the shape; what is assumed is
// named here.
#include <cstdint>

#include "core/format.h"
#include "core/model_shape.h"
#include "grid/cards.h"
#include "grid/engines.h"

namespace qg {

// Share of a card's memory that weights, KV cache and buffers may take, and what the context, workspaces and graphs
// need.
inline constexpr double kUsableMemoryShare = 0.92;
inline constexpr double kReservedBytes = 1.2e9;

// How often an engine holds the one matrix of a tied embedding and lm_head. The native engine's GPU kernels read
// lm_head repacked, beside the table that tokens are looked up in: twice. Its CPU executor and the other engines share
// one.
enum class TiedEmbedding { once, twice };
TiedEmbedding tied_embedding(EngineId engine, bool on_gpu);

// Weights as an engine holds them: linear layers in their format with scales, embedding and lm_head in 16 bits (`tied`:
// where they are one), norms in 16 bits.
int64_t weights_bytes(const ModelShape& shape, WeightFormat weights, TiedEmbedding tied);
// The checkpoint's tensors on disk, in the TensorRT-LLM layout.
int64_t checkpoint_disk_bytes(const ModelShape& shape, WeightFormat weights);
int64_t kv_bytes_per_token(const ModelShape& shape, KvFormat kv);

// Bytes left for the KV cache; negative when the weights do not fit. card.memory_bytes must be known.
int64_t kv_space_bytes(const ModelShape& shape, const Card& card, WeightFormat weights, TiedEmbedding tied);
// Requests that fit at once when each holds `context_tokens` tokens of KV; 0 when none does.
int64_t max_batch(const ModelShape& shape, const Card& card, WeightFormat weights, KvFormat kv, int64_t context_tokens,
                  TiedEmbedding tied);

}  // namespace qg
