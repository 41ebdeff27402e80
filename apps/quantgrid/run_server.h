#pragma once
// quantgrid run --engine openai: one case of the grid on a server that somebody else has started.
#include <string>
#include <vector>

#include "core/error.h"
#include "grid/grid.h"
#include "record/journal.h"
#include "served.h"

namespace qg {

struct ServerRunOptions {
  ServerFlags server;
  std::string name;  // --server-name: the record's engine is openai/NAME
  std::vector<Workload> workloads;
  bool rerun = false, json = false;
};

// The journal gets a case for each workload. Throws Error unless exactly one case is chosen: a server runs one model in
// one format.
ExitCode run_on_server(const Grid& grid, const std::vector<Case>& cases, const ServerRunOptions& options,
                       JournalWriter& journal);

}  // namespace qg
