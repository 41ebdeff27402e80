#pragma once
#include <cstdint>
#include <string>

#include "bench/measure.h"
#include "core/error.h"
#include "served.h"
#include "session.h"
#include "synthetic_model.h"

namespace qg {

struct BenchFlags {
  ModelFlags model;
  SyntheticFlags synthetic;
  ServerFlags server;
  std::string engine = "native";
  int64_t isl = 128, osl = 256, batch = 0, concurrency = 0, rounds = 5, requests = 0, vocab = 0;
  double rate = 0, burstiness = 1, max_ttft_ms = 0, max_tpot_ms = 0, window_s = 0;
  uint64_t seed = kDefaultArrivalSeed;
  int64_t max_batch = 0, max_rows = 0, prefill_chunk = 0;
  bool json = false;

  bool behind_server() const { return server.served || engine == "openai"; }
};

// The same measurement of a server: another's (--engine openai), or our own, started for it (--served).
ExitCode bench_server(const BenchFlags& flags, Load load);

}  // namespace qg
