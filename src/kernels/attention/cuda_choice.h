#pragma once
// Which attention kernel serves a desc, and into how many blocks a decode step is cut. No CUDA here.
#include <algorithm>
#include <cstdint>

namespace qg::attention {

constexpr int64_t kMaxWaves = 4;  // blocks of a split step, in times of what the card holds at once

// Into how many blocks the tokens of each of `units` (piece, KV head) are cut: the fewest whose last wave of blocks
// leaves at most 15 % of the best cut's efficiency unused; no cut below min_tokens, and at most kMaxWaves waves.
// slots: blocks that the card runs at once.
inline int64_t decode_splits(int64_t units, int64_t slots, int64_t max_context, int64_t min_tokens) {
  const int64_t by_length = std::max<int64_t>(1, (max_context + min_tokens - 1) / min_tokens);
  const int64_t most = std::max<int64_t>(1, std::min(by_length, kMaxWaves * slots / units));
  const auto efficiency = [&](int64_t splits) {
    const int64_t blocks = units * splits, waves = (blocks + slots - 1) / slots;
    return static_cast<double>(blocks) / static_cast<double>(waves * slots);
  };
  double best = 0;
  for (int64_t splits = 1; splits <= most; ++splits) best = std::max(best, efficiency(splits));
  for (int64_t splits = 1; splits < most; ++splits)
    if (efficiency(splits) >= 0.85 * best) return splits;
  return most;
}

}  // namespace qg::attention
