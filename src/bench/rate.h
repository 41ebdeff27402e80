#pragma once
// A served load: requests arrive at a rate, whatever the engine does, and what counts is how long each waited
// (docs/measuring.md). Requests of the warm-up come first, at the same rate and without a pause; the others are
// counted. A request's times count from the moment at which it was to arrive, also where it was sent later.
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "bench/measure.h"

namespace qg {

// load.arrival is rate. Throws Error as measure() does.
BenchResult measure_rate(LoadTarget& target, const Load& load, const std::function<void(int64_t tokens)>& on_token,
                         const std::function<void()>& on_start);

// The counted part of a run with `warm_up` requests before it: times from the first counted arrival on, and the tokens
// of counted requests only.
RoundTrace counted_part(const RoundTrace& all, int64_t warm_up);

// A request is good when it ended well and is within every limit that is stated; one token has no TPOT, which is
// within.
Goodput goodput_of(const RoundTrace& round, const Load& load, double seconds);

// One value of a result, by its name in record/metrics.h.
struct LoadFigure {
  std::string_view metric;
  double value = 0;
  int64_t n = 0;                // samples behind it
  double ci_lo = 0, ci_hi = 0;  // 95 %; equal: none
};
// What a served load has beside output and total tokens a second: percentiles of TTFT, TPOT, ITL and E2E, requests and
// good requests a second, the share of good ones. A 99th percentile of fewer than 300 samples is left out: it would be
// their maximum. Empty for other loads.
std::vector<LoadFigure> rate_figures(const BenchResult& result);

// A 99th percentile (metric: its name in record/metrics.h, value: of all requests) as far as it may be shown: of a
// served load only with those 300 samples. In words: "12.3 ms", or that there are too few requests.
std::optional<double> shown_p99(const BenchResult& result, const Load& load, std::string_view metric, double value);
std::string p99_text(const BenchResult& result, const Load& load, std::string_view metric, double value, int digits);

// How a load was offered, for the record: arrivals, warm-up, limits, in words.
std::string describe_arrivals(const Load& load);

}  // namespace qg
