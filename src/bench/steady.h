#pragma once
// Throughput in a steady state, for loads whose whole run would take minutes (docs/measuring.md). The first requests
// are started at random depths, as if they had been running: a reply of which d tokens are already there is a prompt
// longer by d and a reply shorter by d. Whoever ends is followed by a whole request. The window begins when all of the
// first have given a token.
#include <functional>

#include "bench/measure.h"

namespace qg {

// load.batch: sequences that run at once, kept full for load.window_s seconds of tokens' times. output_tok_s: tokens
// in the window over its length, its interval from ten equal slices. TPOT is of requests whose first token came in the
// window; there is no TTFT, since requests are offered ahead of time. What still runs at the end is left to the target.
// Throws Error as measure() does.
BenchResult measure_window(LoadTarget& target, const Load& load, const std::function<void(int64_t tokens)>& on_token,
                           const std::function<void()>& on_start);

// Tokens that request i of the first ones has already "given": uniform in [0, osl), a function of (seed, i) alone.
int64_t start_depth(const Load& load, int64_t index);

}  // namespace qg
