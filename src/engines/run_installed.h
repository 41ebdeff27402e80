#pragma once
// Which engines are installed on this machine, and how the others are installed.
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "grid/engines.h"

namespace qg {

// The programs of an engine that is driven by commands.
struct EnginePrograms {
  std::string_view bench, serve;  // "trtllm-bench"
  std::string_view build;         // empty: nothing is built
  std::string_view package;       // Python's name of it: "tensorrt_llm"
  std::string_view written_for;   // the version that the commands were written for: "1.1.0"
  std::string_view known;         // versions whose reports are read: "1.0 to 1.2"
  std::string_view install;       // "pip install …"
  bool (*is_known)(std::string_view version);
};

const EnginePrograms* engine_programs(EngineId id);  // null for native and openai

struct InstalledEngine {
  std::optional<std::filesystem::path> program;  // its benchmark, where execvp finds it
  std::string version;                           // of the package in that program's own Python; empty when unknown
  std::string problem;                           // why the version is unknown
};

// Looks on the PATH and asks Python; starts no engine. `scratch`: a folder that can be written.
InstalledEngine installed_engine(EngineId id, const std::filesystem::path& scratch);

}  // namespace qg
