#pragma once
// Log-probabilities from a row of logits, before temperature and cuts, as OpenAI's API gives them.
#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace qg {

struct TokenLogprobs {
  float chosen = 0;                            // of the token that was drawn, or that stands in the prompt
  std::vector<std::pair<int32_t, float>> top;  // the likeliest tokens, most likely first (ties: lowest id first)
};

// logits: [vocab], finite; token < 0: `chosen` stays 0.
TokenLogprobs token_logprobs(std::span<const float> logits, int32_t token, int64_t num_top);

}  // namespace qg
