#pragma once
#include <cstdint>
#include <span>

#include "runtime/executor.h"

namespace qg {

// The next token. Greedy (temperature 0): the lowest index among equal maxima. Otherwise softmax(logits / temperature),
// cut to the top_k most likely, then to the fewest of those whose share reaches top_p (ties: lowest index first), and
// one draw that is a function of (seed, output_position) alone. kNotFinite when a logit is not a finite number.
int32_t sample_token(std::span<const float> logits, const SamplingParams& params, int64_t output_position);

// The lowest index among equal maxima; logits must not be empty.
int32_t greedy_token(std::span<const float> logits);

}  // namespace qg
