#pragma once
// What is asked of an engine in a speed measurement.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "grid/grid.h"

namespace qg {

enum class Arrival {
  together,     // all requests of a batch are offered at once; a round ends when the last is done
  concurrency,  // a fixed number in flight: the next is offered when one ends
  rate,         // arrivals at a stated rate, whatever the engine does (rate.h)
};

// What output_tok_s of a measurement counts.
enum class SpeedKind {
  decode,      // output tokens from the last first token on
  throughput,  // all output tokens over the whole run
  prefill,     // prompt tokens until the last first token
};

struct Load {
  std::string name;              // "decode/b8", "1000/1000"
  int64_t isl = 128, osl = 256;  // tokens in and out of every request
  Arrival arrival = Arrival::together;
  int64_t batch = 1;                            // together: requests of a round; concurrency: in flight
  double rate_per_s = 0;                        // rate
  double burstiness = 1;                        // rate (arrivals.h)
  uint64_t arrival_seed = kDefaultArrivalSeed;  // rate
  double max_ttft_ms = 0, max_tpot_ms = 0;      // rate: limits of goodput; 0: none
  // concurrency: in all, 0 = chosen from the batch; rate: that are counted, those of the warm-up come before them
  int64_t requests = 0;
  int64_t rounds = 5;  // together: measured rounds after one warm-up
  SpeedKind speed = SpeedKind::decode;
  double window_s = 0;  // throughput: in a steady state of this length (steady.h), with `batch` running; 0 = whole run
  uint64_t seed = 42;
};

// "decode/b8" is 128 in, 256 out, batch 8; "1000/1000" offers all requests at once. Empty when the name is neither.
std::optional<Load> parse_load(const std::string& name);

// A workload of a grid.
Load load_of(const Workload& workload);

// Requests that run at once where nothing else says it: all of a batch; of a load at a rate 256 on a GPU, 64 on a CPU.
int64_t running_at_once(const Load& load, bool cuda);
// Rows of a step (EngineOptions::max_rows) where nothing else says it. On a GPU 4,096 for throughput, where no time to
// a token counts: the batch fills sooner and ends together, so that fewer steps have few rows
// (docs/performance-log.md).
int64_t rows_of_step(const Load& load, bool cuda);
// Requests that may be open at once, warm-up included: for what must have room for all of them.
int64_t open_at_most(const Load& load);

// The prompt of request `index`: token ids drawn uniformly from [first_id, vocab), so that no two prompts share a
// prefix and no special token (which sit at either end of a vocabulary) is met early. A function of (seed, index)
// alone.
std::vector<int32_t> load_prompt(const Load& load, int64_t index, int64_t vocab);

}  // namespace qg
