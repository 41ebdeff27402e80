#include "grid/memory.h"

#include <array>
#include <cmath>

#include "core/error.h"
#include "grid/formats.h"

namespace qg {
namespace {

struct Matrix {
  int64_t n, k;  // out and in features
};

std::array<Matrix, 5> layer_matrices(const ModelShape& s) {
  return {{{s.qkv_rows(), s.hidden}, {s.hidden, s.q_rows()}, {s.ffn, s.hidden}, {s.ffn, s.hidden}, {s.hidden, s.ffn}}};
}

double linear_bytes(const ModelShape& shape, WeightFormat weights, bool on_disk) {
  const WeightFormatSpec& spec = weight_format_spec(weights);
  const int64_t group = spec.group_scale_bytes > 0 ? int4_group_size(shape) : 0;
  // Where no group size divides, quantizing refuses; the plan still shows a size, that of groups of 32.
  const double groups_per_input = spec.group_scale_bytes > 0 ? 1.0 / static_cast<double>(group > 0 ? group : 32) : 0;
  const double group_bytes = on_disk ? spec.disk_group_scale_bytes : spec.group_scale_bytes;
  double bytes = 0;
  for (const Matrix& m : layer_matrices(shape)) {
    const double n = static_cast<double>(m.n), k = static_cast<double>(m.k);
    bytes += n * k * (spec.weight_bytes + group_bytes * groups_per_input) + spec.tensor_scale_bytes +
             n * spec.channel_scale_bytes + k * spec.input_scale_bytes;
  }
  return bytes * static_cast<double>(shape.layers);
}

int64_t total_bytes(const ModelShape& shape, WeightFormat weights, TiedEmbedding tied, bool on_disk) {
  const int copies = shape.tied_embeddings && tied == TiedEmbedding::once ? 1 : 2;
  const double embeddings = 2.0 * static_cast<double>(shape.embedding_params()) * copies;
  const double norms = 2.0 * static_cast<double>((2 * shape.layers + 1) * shape.hidden);
  return std::llround(linear_bytes(shape, weights, on_disk) + embeddings + norms);
}

}  // namespace

TiedEmbedding tied_embedding(EngineId engine, bool on_gpu) {
  return engine == EngineId::native && on_gpu ? TiedEmbedding::twice : TiedEmbedding::once;
}

int64_t weights_bytes(const ModelShape& shape, WeightFormat weights, TiedEmbedding tied) {
  return total_bytes(shape, weights, tied, false);
}

int64_t checkpoint_disk_bytes(const ModelShape& shape, WeightFormat weights) {
  return total_bytes(shape, weights, TiedEmbedding::once, true);
}

int64_t kv_bytes_per_token(const ModelShape& shape, KvFormat kv) {
  return shape.kv_elements_per_token() * element_bytes(kv);
}

int64_t kv_space_bytes(const ModelShape& shape, const Card& card, WeightFormat weights, TiedEmbedding tied) {
  if (card.memory_bytes <= 0) throw Error("the memory of the card " + card.id + " is not known");
  const double space = kUsableMemoryShare * static_cast<double>(card.memory_bytes) - kReservedBytes;
  return std::llround(space) - weights_bytes(shape, weights, tied);
}

int64_t max_batch(const ModelShape& shape, const Card& card, WeightFormat weights, KvFormat kv, int64_t context_tokens,
                  TiedEmbedding tied) {
  if (context_tokens <= 0) throw Error("a context of " + std::to_string(context_tokens) + " tokens holds nothing");
  const int64_t space = kv_space_bytes(shape, card, weights, tied);
  if (space <= 0) return 0;
  return static_cast<int64_t>(static_cast<double>(space) / (static_cast<double>(context_tokens) *
                                                            static_cast<double>(kv_bytes_per_token(shape, kv))));
}

}  // namespace qg
