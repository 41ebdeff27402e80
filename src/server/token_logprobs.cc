#include "server/token_logprobs.h"

#include <algorithm>
#include <cmath>

namespace qg {

TokenLogprobs token_logprobs(std::span<const float> logits, int32_t token, int64_t num_top) {
  TokenLogprobs result;
  if (logits.empty()) return result;
  // The best few as a heap whose front is the worst of them: one pass over a large vocabulary, no copy of it.
  const auto before = [&](int32_t a, int32_t b) {
    const float x = logits[static_cast<size_t>(a)], y = logits[static_cast<size_t>(b)];
    return x != y ? x > y : a < b;
  };
  const float largest = *std::max_element(logits.begin(), logits.end());
  const size_t count = std::min(static_cast<size_t>(num_top), logits.size());
  std::vector<int32_t> best;
  double sum = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    sum += std::exp(static_cast<double>(logits[i]) - largest);
    const int32_t id = static_cast<int32_t>(i);
    if (best.size() < count) {
      best.push_back(id);
      std::push_heap(best.begin(), best.end(), before);
    } else if (count > 0 && before(id, best.front())) {
      std::pop_heap(best.begin(), best.end(), before);
      best.back() = id;
      std::push_heap(best.begin(), best.end(), before);
    }
  }
  std::sort_heap(best.begin(), best.end(), before);
  const double log_sum = std::log(sum) + largest;
  const auto logprob = [&](int32_t id) { return static_cast<float>(logits[static_cast<size_t>(id)] - log_sum); };
  if (token >= 0) result.chosen = logprob(token);
  for (const int32_t id : best) result.top.emplace_back(id, logprob(id));
  return result;
}

}  // namespace qg
