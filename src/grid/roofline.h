#pragma once
// What the data sheet allows: speeds no program can pass (decode_tok_s), and the serial model that published throughput
// is compared with (throughput). Formulas: docs of `plan`; the serial model takes GEMM, KV reading and prefill one
// after another, at the card's assumed efficiencies.
#include <cstdint>
#include <optional>

#include "core/format.h"
#include "core/model_shape.h"
#include "grid/cards.h"

namespace qg {

// Tokens of KV that the batch-1 figures of `plan` assume.
inline constexpr double kRooflineContextTokens = 512;

// Bytes of weights read in one decode step: everything but the input embedding, which is a gather.
double decode_read_bytes(const ModelShape& shape, WeightFormat weights);

// Output tokens/s that data-sheet bandwidth and arithmetic allow for `batch` sequences holding `context_tokens` each:
// batch / max(bytes read / bandwidth, operations / rate). Empty when the card's figures are not known (the CPU row).
std::optional<double> decode_tok_s(const ModelShape& shape, const Card& card, WeightFormat weights, KvFormat kv,
                                   int64_t batch, double context_tokens);

// Prompt tokens/s at data-sheet arithmetic, attention left out (under 5 % at 2k tokens).
std::optional<double> prefill_tok_s(const ModelShape& shape, const Card& card, WeightFormat weights);

// Tokens in a step at which arithmetic takes as long as reading the weights.
std::optional<double> ridge_batch(const ModelShape& shape, const Card& card, WeightFormat weights);

// Output tokens/s that the data sheet allows for a load of isl tokens in and osl out with `batch` sequences running:
// decoding at half the reply, and the prompts' share of prefill, one after the other. Empty when not known.
std::optional<double> load_tok_s(const ModelShape& shape, const Card& card, WeightFormat weights, KvFormat kv,
                                 double batch, int64_t isl, int64_t osl);

// Steady continuous batching: isl tokens in, osl out, mean occupancy isl + osl / 2, best batch up to 1024 that fits.
struct Throughput {
  double output_tok_s = 0;
  int64_t batch = 0;  // least batch that gives 95 % of it; 0 when nothing fits
};
std::optional<Throughput> serial_throughput(const ModelShape& shape, const Card& card, WeightFormat weights,
                                            KvFormat kv, int64_t isl, int64_t osl);

}  // namespace qg
