#pragma once
// `run GRID --engine tensorrt-llm|vllm`: the grid through another engine on this machine.
#include <filesystem>
#include <string>
#include <vector>

#include "core/error.h"
#include "engines/engine_run.h"
#include "grid/engines.h"

namespace qg {

struct EngineRunFlags {
  std::string grid, model_dir, filter, target, profile = "quick", journal, gpu, engine_dir;
  std::vector<std::string> points;
  double limit_minutes = 60;
  bool rerun = false, json = false, attempt = false;
  std::string prompts;     // how that load asks where not by token ids: "text", "chat"
  ServedLoad served_load;  // with it the engine's server is loaded over HTTP: rows are of the engine "NAME/served"
};

// Throws Error when nothing can run at all: no such card, no case for it, a journal that cannot be written.
ExitCode run_on_engine(EngineId engine, const EngineRunFlags& flags);

}  // namespace qg
