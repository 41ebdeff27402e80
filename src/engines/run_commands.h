#pragma once
// Engines that are driven by their own benchmarks: TensorRT-LLM on both back ends, and vLLM. The commands are those of
// commands.h, which `plan --emit` prints too; here they are started, limited, read and ended.
#include <memory>
#include <string>

#include "engines/engine_run.h"

namespace qg {

struct DriverOptions {
  double bench_limit_s = 3600;   // of one start of a benchmark
  double build_limit_s = 7200;   // of building an engine, and of making a checkpoint
  double server_limit_s = 1800;  // until a server is up
  std::string gpu = "0";         // index as nvidia-smi counts, or UUID
  bool any_version = false;      // versions whose reports are not known are tried all the same
  std::string quantgrid;         // this program, for `quantgrid quantize`
  std::filesystem::path scratch = ".";
  // With it each case's server is started and loaded over HTTP; without it the engine's own benchmark runs.
  ServedLoad served_load;
};

// Throws Error for native and openai.
std::unique_ptr<EngineDriver> make_command_driver(EngineId id, DriverOptions options);

}  // namespace qg
