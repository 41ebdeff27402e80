#include "quantize/gpu_budget.h"

#include <fmt/format.h>

#include <algorithm>
#include <numeric>

#include "core/error.h"

namespace qg {
namespace {

constexpr int64_t kFloat = 4, kHalf = 2, kDouble = 8;
constexpr int64_t kMostChunkTokens = 8192;
constexpr int64_t kReservedBytes = int64_t{768} << 20;  // context, modules, cuBLASLt's workspace and kernels
constexpr int64_t kSampledKeys = 16384 + 4096;          // kv_shaping's sample, with the first keys of each sequence

// Activations of one chunk in the forward pass, and what the KV statistics of its longest sequence take.
int64_t chunk_bytes(const ModelShape& s, int64_t tokens, int64_t longest) {
  const int64_t widest = std::max({s.hidden, s.q_rows(), s.ffn});
  const int64_t forward = widest + s.qkv_rows() + s.q_rows() + s.hidden + 2 * s.ffn  // norm's output .. gate and up
                          + 2 * s.kv_rows() + s.kv_rows();                           // cache pages, gathered keys
  const int64_t queries = 128;                                                       // of a sequence, at most
  const int64_t kv = s.heads * (queries * (2 * longest + 2 * s.head_dim) + longest * (s.head_dim + 1)) * kFloat;
  return tokens * forward * kHalf + kv + kSampledKeys * s.kv_rows() * kHalf;
}

std::string gigabytes(int64_t bytes) {
  return fmt::format("{:.2f} GB", 1e-9 * static_cast<double>(bytes));
}

// Sequences are kept whole.
std::vector<int64_t> cut(const std::vector<int64_t>& lengths, int64_t tokens) {
  std::vector<int64_t> chunks;
  int64_t used = 0;
  for (const int64_t length : lengths) {
    if (chunks.empty() || used + length > tokens) {
      chunks.push_back(0);
      used = 0;
    }
    ++chunks.back();
    used += length;
  }
  return chunks;
}

}  // namespace

int64_t GroupSizes::bytes() const {
  const int64_t groups = min_group > 0 ? weights / min_group : 0;
  int64_t bytes = weights * (kFloat + kHalf + 1);   // widened; trial codes or what is lost; codes
  bytes += weights / 2 + groups * (kFloat + 1);     // int4: packed, grids
  bytes += sampled * (2 * n * kFloat + k * kHalf);  // outputs and a trial's, rounded inputs
  bytes += n * (3 * kFloat + 16 * kDouble) + 8 * k * kFloat + 17 * k * kDouble;
  if (feedback) bytes += weights * kFloat + n * 64 * kFloat + k * k * kFloat + 128 * (k + 128) * kFloat;
  return bytes;
}

GroupSizes group_sizes(const ModelShape& s, int64_t sampled, bool feedback) {
  GroupSizes sizes;
  sizes.weights = std::max({2 * s.ffn * s.hidden, s.qkv_rows() * s.hidden, s.hidden * s.q_rows(), s.hidden * s.ffn});
  sizes.n = std::max({2 * s.ffn, s.qkv_rows(), s.hidden});
  sizes.k = std::max({s.hidden, s.q_rows(), s.ffn});
  sizes.sampled = sampled;
  sizes.min_group = 32;
  sizes.feedback = feedback;
  return sizes;
}

int64_t GpuBudget::total_bytes() const {
  return residual_bytes + layer_bytes + statistics_bytes + search_bytes + chunk_bytes + reserved_bytes;
}

std::string GpuBudget::text() const {
  return fmt::format(
      "{} of GPU memory: residual stream {}, weights of two layers {}, statistics {}, search {}, a chunk of {} tokens "
      "{}, CUDA itself {}",
      gigabytes(total_bytes()), gigabytes(residual_bytes), gigabytes(layer_bytes), gigabytes(statistics_bytes),
      gigabytes(search_bytes), chunk_tokens, gigabytes(chunk_bytes), gigabytes(reserved_bytes));
}

GpuBudget plan_gpu_budget(const GpuBudgetRequest& request) {
  const ModelShape& s = request.shape;
  const int64_t rows = std::accumulate(request.lengths.begin(), request.lengths.end(), int64_t{0});
  const int64_t longest = *std::max_element(request.lengths.begin(), request.lengths.end());
  const int64_t layer = s.linear_params() / s.layers;
  GpuBudget budget;
  budget.residual_bytes = rows * s.hidden * kFloat;
  budget.layer_bytes = 2 * layer * static_cast<int64_t>(size_bytes(request.weight_type));
  if (request.weight_type != DType::f16) budget.layer_bytes += layer * kHalf;
  for (const int64_t k : {s.hidden, s.q_rows(), s.hidden, s.ffn}) {
    if (!request.quantizes) break;
    budget.statistics_bytes += request.sampled * k * kHalf + k * (kFloat + kDouble);
    if (request.feedback) budget.statistics_bytes += k * k * kFloat;
  }
  if (request.quantizes) budget.search_bytes = group_sizes(s, request.sampled, request.feedback).bytes();
  budget.reserved_bytes = kReservedBytes;
  const int64_t fixed = budget.total_bytes();
  for (int64_t tokens = std::max(kMostChunkTokens, longest);; tokens = std::max(tokens / 2, longest)) {
    budget.chunk_tokens = std::min(tokens, rows);
    budget.chunk_bytes = chunk_bytes(s, budget.chunk_tokens, longest);
    if (fixed + budget.chunk_bytes <= request.memory_bytes) break;
    if (tokens == longest)
      throw Error(
          fmt::format("{} may be used, but quantizing needs {}", gigabytes(request.memory_bytes), budget.text()),
          "--executor cuda",
          "use fewer calibration tokens (--calib-sequences), --no-error-feedback (less accurate), a larger "
          "card, or --executor cpu",
          ExitCode::cannot_here);
  }
  budget.chunk_sequences = cut(request.lengths, std::max(budget.chunk_tokens, longest));
  return budget;
}

}  // namespace qg
