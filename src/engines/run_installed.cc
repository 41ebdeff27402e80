#include "engines/run_installed.h"

#include <fmt/format.h>

#include <fstream>

#include "core/error.h"
#include "core/file.h"
#include "engines/process.h"
#include "engines/reports.h"

namespace qg {
namespace {

constexpr double kAskSeconds = 60;

constexpr EnginePrograms kTrtllmTensorrt{"trtllm-bench",
                                         "trtllm-serve",
                                         "trtllm-build",
                                         "tensorrt_llm",
                                         "1.1.0",
                                         kKnownTrtllm,
                                         "pip install tensorrt-llm==1.1.0 (Python 3.12, CUDA 12.9)",
                                         is_known_trtllm};
constexpr EnginePrograms kTrtllmPytorch{"trtllm-bench",
                                        "trtllm-serve",
                                        "",
                                        "tensorrt_llm",
                                        "1.1.0",
                                        kKnownTrtllm,
                                        "pip install tensorrt-llm==1.1.0 (Python 3.12, CUDA 12.9)",
                                        is_known_trtllm};
constexpr EnginePrograms kVllm{"vllm",       "vllm", "", "vllm", "0.12", kKnownVllm, "pip install vllm==0.12.0",
                               is_known_vllm};

// The Python that a program which pip installed runs in: "#!/opt/venv/bin/python" in its first line.
std::string python_of(const std::filesystem::path& program) {
  std::ifstream file(program, std::ios::binary);
  std::string line(256, '\0');
  file.read(line.data(), static_cast<std::streamsize>(line.size()));
  line.resize(static_cast<size_t>(file.gcount()));
  line = line.substr(0, line.find_first_of("\r\n"));
  if (!line.starts_with("#!")) return "python3";
  line = line.substr(line.find_first_not_of(" \t", 2) == std::string::npos ? line.size()
                                                                           : line.find_first_not_of(" \t", 2));
  line = line.substr(0, line.find_first_of(" \t"));
  return std::filesystem::path(line).filename().string().starts_with("python") ? line : "python3";
}

}  // namespace

const EnginePrograms* engine_programs(EngineId id) {
  switch (id) {
    case EngineId::trtllm_tensorrt:
      return &kTrtllmTensorrt;
    case EngineId::trtllm_pytorch:
      return &kTrtllmPytorch;
    case EngineId::vllm:
      return &kVllm;
    case EngineId::native:
    case EngineId::openai:
      break;
  }
  return nullptr;
}

InstalledEngine installed_engine(EngineId id, const std::filesystem::path& scratch) {
  InstalledEngine found;
  const EnginePrograms* programs = engine_programs(id);
  if (!programs) return found;
  found.program = find_program(std::string(programs->bench));
  if (!found.program) return found;
  std::vector<std::string> lines;
  ProcessSpec ask;
  ask.argv = {
      python_of(*found.program), "-c",
      fmt::format("from importlib.metadata import version; print('version', version('{}'))", programs->package)};
  ask.log = scratch / "version.log";
  ask.limit_s = kAskSeconds;
  ask.on_line = [&](std::string_view line) {
    if (line.starts_with("version ")) found.version = line.substr(8);
    if (lines.size() < 1000) lines.emplace_back(line);
    return std::nullopt;
  };
  const ProcessResult result = run_process(std::move(ask));
  if (!result.ended_well() || found.version.empty()) {
    found.version.clear();
    found.problem = fmt::format("{} does not know the package {}{}", python_of(*found.program), programs->package,
                                !result.problem.empty() ? ": " + result.problem
                                : lines.empty()         ? ""
                                                        : ": " + lines.back());
  }
  std::error_code code;
  std::filesystem::remove(scratch / "version.log", code);
  return found;
}

}  // namespace qg
