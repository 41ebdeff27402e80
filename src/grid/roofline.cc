#include "grid/roofline.h"

#include <algorithm>
#include <vector>

#include "grid/formats.h"
#include "grid/memory.h"

namespace qg {
namespace {

// Unpacking costs a kernel some of the FP16 rate: 4-bit weights, and FP8 weights on cards without FP8 arithmetic.
constexpr double kW4ComputeShare = 0.92;
constexpr double kW8A16ComputeShare = 0.95;
constexpr int64_t kMaxModelBatch = 1024;

bool is_known(const Card& card) {
  return card.bandwidth_gbps > 0 && card.fp16_tflops > 0;
}

double linear(const ModelShape& shape) {
  return static_cast<double>(shape.linear_params());
}
double head(const ModelShape& shape) {
  return static_cast<double>(shape.embedding_params());
}

double assumed_flops(const Card& card, WeightFormat weights) {
  const double peak = 1e12 * peak_tflops(card, weights);
  switch (weights) {
    case WeightFormat::int4_awq:
      return peak * card.efficiency.fp16 * kW4ComputeShare;
    case WeightFormat::fp8:
      return card.has_fp8() ? peak * card.efficiency.eight_bit : peak * card.efficiency.fp16 * kW8A16ComputeShare;
    case WeightFormat::int8_sq:
      return peak * card.efficiency.eight_bit;
    case WeightFormat::fp16:
      break;
  }
  return peak * card.efficiency.fp16;
}

// Tokens of a context that attention reads. Of the mean over a reply whose context grows beyond the window this is at
// most a few percent too much, so that the limit stays one.
double seen(const ModelShape& shape, double context_tokens) {
  return shape.sliding_window ? std::min(context_tokens, static_cast<double>(*shape.sliding_window)) : context_tokens;
}

}  // namespace

double decode_read_bytes(const ModelShape& shape, WeightFormat weights) {
  // Of embedding and lm_head the latter alone is read.
  return static_cast<double>(weights_bytes(shape, weights, TiedEmbedding::twice)) - 2 * head(shape);
}

std::optional<double> decode_tok_s(const ModelShape& shape, const Card& card, WeightFormat weights, KvFormat kv,
                                   int64_t batch, double context_tokens) {
  if (!is_known(card)) return std::nullopt;
  const double sequences = static_cast<double>(batch);
  const double kv_bytes = sequences * seen(shape, context_tokens) * static_cast<double>(kv_bytes_per_token(shape, kv));
  const double read_s = (decode_read_bytes(shape, weights) + kv_bytes) / (1e9 * card.bandwidth_gbps);
  const double compute_s = 2 * (linear(shape) + head(shape)) * sequences / (1e12 * peak_tflops(card, weights));
  return sequences / std::max(read_s, compute_s);
}

std::optional<double> prefill_tok_s(const ModelShape& shape, const Card& card, WeightFormat weights) {
  if (!is_known(card)) return std::nullopt;
  return 1e12 * peak_tflops(card, weights) / (2 * linear(shape));
}

std::optional<double> load_tok_s(const ModelShape& shape, const Card& card, WeightFormat weights, KvFormat kv,
                                 double batch, int64_t isl, int64_t osl) {
  if (!is_known(card) || batch <= 0 || osl <= 0) return std::nullopt;
  const double context = static_cast<double>(isl) + static_cast<double>(osl) / 2;
  const double kv_bytes = batch * seen(shape, context) * static_cast<double>(kv_bytes_per_token(shape, kv));
  const double read_s = (decode_read_bytes(shape, weights) + kv_bytes) / (1e9 * card.bandwidth_gbps);
  const double compute_s = 2 * (linear(shape) + head(shape)) * batch / (1e12 * peak_tflops(card, weights));
  const double prompts_s = static_cast<double>(isl) / static_cast<double>(osl) / *prefill_tok_s(shape, card, weights);
  return 1 / (std::max(read_s, compute_s) / batch + prompts_s);
}

std::optional<double> ridge_batch(const ModelShape& shape, const Card& card, WeightFormat weights) {
  if (!is_known(card)) return std::nullopt;
  const double read_s = decode_read_bytes(shape, weights) / (1e9 * card.bandwidth_gbps);
  return read_s * 1e12 * peak_tflops(card, weights) / (2 * (linear(shape) + head(shape)));
}

// step(B) = max(weights / BW, 2 x params x B / F) + B x (I + O/2) x kv / BW + (I / O) x B x 2 x linear / F
std::optional<Throughput> serial_throughput(const ModelShape& shape, const Card& card, WeightFormat weights,
                                            KvFormat kv, int64_t isl, int64_t osl) {
  if (!is_known(card) || card.memory_bytes <= 0 || isl <= 0 || osl <= 0) return std::nullopt;
  const double bandwidth = 1e9 * card.bandwidth_gbps * card.efficiency.bandwidth;
  const double flops = assumed_flops(card, weights);
  const double occupancy_tokens = static_cast<double>(isl) + static_cast<double>(osl) / 2;
  const double kv_bytes = occupancy_tokens * static_cast<double>(kv_bytes_per_token(shape, kv));
  const double space = static_cast<double>(kv_space_bytes(shape, card, weights, TiedEmbedding::once));
  const int64_t fits = space <= 0 ? 0 : std::min(kMaxModelBatch, static_cast<int64_t>(space / kv_bytes));

  std::vector<double> tok_s;  // tok_s[i]: batch i + 1
  for (int64_t b = 1; b <= fits; ++b) {
    const double batch = static_cast<double>(b);
    const double gemm =
        std::max(decode_read_bytes(shape, weights) / bandwidth, 2 * (linear(shape) + head(shape)) * batch / flops);
    const double prefill = static_cast<double>(isl) / static_cast<double>(osl) * batch * 2 * linear(shape) / flops;
    tok_s.push_back(batch / (gemm + batch * kv_bytes / bandwidth + prefill));
  }
  if (tok_s.empty()) return Throughput{};
  const double best = *std::max_element(tok_s.begin(), tok_s.end());
  const auto enough = std::find_if(tok_s.begin(), tok_s.end(), [&](double v) { return v >= 0.95 * best; });
  return Throughput{best, static_cast<int64_t>(enough - tok_s.begin()) + 1};
}

}  // namespace qg
