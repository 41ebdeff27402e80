#include "runtime/sampling.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "core/error.h"
#include "core/rng.h"

namespace qg {
namespace {

// Token numbers, most likely first; among equals the lowest number first. Only the first `count` are in order.
std::vector<int32_t> ranked(std::span<const float> logits, size_t count) {
  std::vector<int32_t> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  const auto before = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(count), order.end(), before);
  order.resize(count);
  return order;
}

// How many of the first probabilities reach the share `top_p` of all of them; at least one.
size_t nucleus(const std::vector<double>& probabilities, double top_p) {
  const double wanted = top_p * std::accumulate(probabilities.begin(), probabilities.end(), 0.0);
  double sum = 0;
  for (size_t i = 0; i < probabilities.size(); ++i) {
    sum += probabilities[i];
    if (sum >= wanted) return i + 1;
  }
  return probabilities.size();
}

// The index whose part of the cumulated probabilities holds the draw u in [0, 1).
size_t draw(const std::vector<double>& probabilities, double u) {
  const double target = u * std::accumulate(probabilities.begin(), probabilities.end(), 0.0);
  double sum = 0;
  size_t last_possible = 0;
  for (size_t i = 0; i < probabilities.size(); ++i) {
    sum += probabilities[i];
    if (probabilities[i] > 0) last_possible = i;
    if (target < sum) return i;
  }
  return last_possible;  // the sum was rounded below the target
}

}  // namespace

int32_t greedy_token(std::span<const float> logits) {
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

int32_t sample_token(std::span<const float> logits, const SamplingParams& params, int64_t output_position) {
  if (logits.empty()) throw Error("there are no logits to sample from");
  for (const float logit : logits)
    if (!std::isfinite(logit)) return kNotFinite;
  const int32_t best = greedy_token(logits);
  if (params.temperature <= 0 || params.top_k == 1) return best;

  // All tokens in the order of their numbers, or the likely ones ranked where something is cut.
  const bool by_k = params.top_k > 0 && static_cast<size_t>(params.top_k) < logits.size();
  const bool by_p = params.top_p < 1;
  std::vector<int32_t> tokens;
  if (by_k || by_p) {
    tokens = ranked(logits, by_k ? static_cast<size_t>(params.top_k) : logits.size());
  } else {
    tokens.resize(logits.size());
    std::iota(tokens.begin(), tokens.end(), 0);
  }
  const double largest = logits[static_cast<size_t>(best)];
  std::vector<double> probabilities;
  probabilities.reserve(tokens.size());
  for (const int32_t token : tokens)
    probabilities.push_back(std::exp((logits[static_cast<size_t>(token)] - largest) / params.temperature));
  if (by_p) probabilities.resize(nucleus(probabilities, params.top_p));
  return tokens[draw(probabilities, Rng(params.seed).uniform(static_cast<uint64_t>(output_position)))];
}

}  // namespace qg
