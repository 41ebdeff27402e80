#pragma once
// One speed measurement: a workload against a target. Definitions (docs/measuring.md):
//   decode      output tok/s = sum(tokens out - 1) / (time of the last token - time of the last first token), a round
//   throughput  output tok/s = all output tokens / (last token - first request), ramp and tail included
//   TTFT        first token - offered;  TPOT = (last - first token) / (tokens - 1);  ITL = gaps between tokens
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "bench/load.h"
#include "bench/statistics.h"
#include "bench/target.h"

namespace qg {

// Times in seconds since the first request of the round was offered.
struct RequestTrace {
  double offered = 0, first = 0, last = 0;
  int64_t tokens_out = 0;
  std::vector<double> gaps;  // between consecutive tokens
  std::string error;
};

struct RoundTrace {
  std::vector<RequestTrace> requests;
  std::vector<double> token_times;  // ascending; for the intervals of throughput runs
};

struct Percentiles {
  double p50 = 0, p90 = 0, p99 = 0;
  int64_t n = 0;  // samples; 0: none
};

// Requests that were served within the limits of a load (rate.h).
struct Goodput {
  int64_t good = 0;
  Estimate share;         // of the counted requests, failed ones among them
  double requests_s = 0;  // good ones over the measured time
};

struct BenchResult {
  Estimate output_tok_s;   // of a prefill load: prompt tokens per second
  double total_tok_s = 0;  // input and output tokens
  double ttft_ms_p50 = 0, ttft_ms_p99 = 0, tpot_ms_p50 = 0, itl_ms_p50 = 0, itl_ms_p99 = 0;
  double prefill_tok_s = 0;  // input tokens / (last first token - first offer)
  double batch_achieved = 0;
  double device_busy_share = 0;  // of the measured time, for which the GPU worked; 0 = unknown
  int64_t requests = 0, failed = 0, rounds = 0;
  double seconds = 0;
  int64_t output_tokens = 0;  // of the measured rounds
  // Tokens given while the energy counter ran: of a load at a rate the warm-up's last ones too.
  int64_t window_tokens = 0;
  Percentiles ttft_ms, tpot_ms, itl_ms, e2e_ms;  // of a load at a rate; no samples otherwise
  std::optional<Goodput> goodput;                // of a load at a rate with limits
  std::vector<std::string> kernels;
  std::string compute_path;
  std::string first_error;
};

// Runs one round: `count` requests, prompts numbered from first_index. on_token is called for each output token,
// on_offer (may be empty) before request i of the round is offered.
RoundTrace run_round(LoadTarget& target, const Load& load, int64_t first_index, int64_t count,
                     const std::function<void(int64_t tokens)>& on_token,
                     const std::function<void(int64_t i)>& on_offer = {});

// Warm-up (a whole round; 16 requests of a throughput run) and rounds; throws Error when every request fails, with the
// first reason.
// on_start (may be empty) is called when the warm-up is over. A load with a window goes to measure_window(), one at a
// rate to measure_rate().
BenchResult measure(LoadTarget& target, const Load& load, const std::function<void(int64_t tokens)>& on_token,
                    const std::function<void()>& on_start = {});

// In milliseconds, of requests that ended well; one token has no TPOT and no ITL.
struct Latencies {
  std::vector<double> ttft, tpot, itl, e2e;
};
// Adds a round's requests to what `result` has counted, and their latencies.
void count_requests(const RoundTrace& round, BenchResult& result, Latencies& latencies);
double tpot_ms(const RequestTrace& request);  // of two tokens or more

// Whether all replies of a decode load were under way at one moment. Where some had ended before the last began,
// decode_speed() would count their tokens over the time of others. Of other loads always true.
bool ran_together(const RoundTrace& round, const Load& load);
double decode_speed(const RoundTrace& round);  // output tok/s as defined above; 0 when nothing was decoded
double throughput_speed(const RoundTrace& round);
// Interval from ten equal slices of the middle 80 % of the run.
Estimate throughput_estimate(const RoundTrace& round);
int64_t total_output_tokens(const Load& load);  // of warm-up and all rounds, for progress

}  // namespace qg
