#include "bench/load.h"

#include <algorithm>
#include <charconv>

#include "core/error.h"
#include "core/rng.h"

namespace qg {
namespace {

std::optional<int64_t> parse_positive(std::string_view text) {
  int64_t value = 0;
  const auto [end, code] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (code != std::errc() || end != text.data() + text.size() || value < 1 || value > 10'000'000) return std::nullopt;
  return value;
}

}  // namespace

std::optional<Load> parse_load(const std::string& name) {
  Load w;
  w.name = name;
  if (name.starts_with("decode/b")) {
    const auto batch = parse_positive(std::string_view(name).substr(8));
    if (!batch) return std::nullopt;
    w.batch = *batch;
    return w;
  }
  const size_t slash = name.find('/');
  if (slash == std::string::npos) return std::nullopt;
  const auto isl = parse_positive(std::string_view(name).substr(0, slash));
  const auto osl = parse_positive(std::string_view(name).substr(slash + 1));
  if (!isl || !osl) return std::nullopt;
  w.isl = *isl;
  w.osl = *osl;
  w.speed = SpeedKind::throughput;
  w.rounds = 1;
  w.batch = 0;  // as many as make at least twice the running batch; the caller knows it
  return w;
}

Load load_of(const Workload& w) {
  Load load;
  load.name = w.name;
  load.isl = w.isl_tokens;
  load.osl = w.kind == WorkloadKind::prefill ? 1 : w.osl_tokens;
  load.rounds = w.rounds;
  if (w.kind == WorkloadKind::throughput) {
    load.speed = SpeedKind::throughput;
    load.rounds = 1;
    load.batch = throughput_requests(w);
  } else if (w.kind == WorkloadKind::rate) {
    load.arrival = Arrival::rate;
    load.speed = SpeedKind::throughput;
    load.rounds = 1;
    load.rate_per_s = w.rate_per_s;
    load.burstiness = w.burstiness;
    load.arrival_seed = w.seed;
    load.max_ttft_ms = w.max_ttft_ms;
    load.max_tpot_ms = w.max_tpot_ms;
    load.requests = w.requests;
  } else {
    load.speed = w.kind == WorkloadKind::prefill ? SpeedKind::prefill : SpeedKind::decode;
    load.batch = w.batch;
  }
  return load;
}

int64_t open_at_most(const Load& load) {
  return load.arrival == Arrival::rate ? load.requests + rate_warm_up(load.requests) : load.batch;
}

int64_t running_at_once(const Load& load, bool cuda) {
  if (load.arrival != Arrival::rate) return load.batch;
  return std::min<int64_t>(cuda ? 256 : 64, open_at_most(load));
}

int64_t rows_of_step(const Load& load, bool cuda) {
  return cuda && load.speed == SpeedKind::throughput && load.arrival != Arrival::rate ? 4096 : 2048;
}

std::vector<int32_t> load_prompt(const Load& load, int64_t index, int64_t vocab) {
  const int64_t first = vocab > 64 ? 32 : 0, last = vocab > 1024 ? vocab - 512 : vocab;
  const Rng rng(load.seed, static_cast<uint64_t>(index));
  std::vector<int32_t> prompt(static_cast<size_t>(load.isl));
  for (size_t i = 0; i < prompt.size(); ++i)
    prompt[i] = static_cast<int32_t>(first + static_cast<int64_t>(rng.below(i, static_cast<uint64_t>(last - first))));
  return prompt;
}

}  // namespace qg
