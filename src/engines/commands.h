#pragma once
// The exact commands of other engines, as data: what is started, with which words and which files, for one case and one
// workload. Scripts (script.h) print them, tests hold them; nothing here starts anything. Versions: TensorRT-LLM 1.1.0
// and vLLM 0.12. docs/engines.md says how each number is taken and what could not be settled from documents.
#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "core/model_shape.h"
#include "grid/case.h"
#include "grid/engines.h"
#include "grid/grid.h"
#include "grid/plan.h"

namespace qg {

// A program and its words as execvp takes them; notes say why, with the source of what is not obvious.
struct CommandLine {
  std::vector<std::string> argv;
  std::vector<std::string> notes;
};

struct WrittenFile {
  std::filesystem::path path;
  std::string text;
  std::vector<std::string> notes;
};

// One start of the engine's own benchmark, and the report that it leaves.
struct BenchRun {
  std::string name;  // "total"; file stem of report and log
  CommandLine command;
  std::filesystem::path report, log;  // log: standard output and error together
};

// A case on an engine: where its folders are. Paths are used as they are given, never resolved.
struct EngineCase {
  EngineId engine = EngineId::trtllm_pytorch;
  Case c;
  std::string model_id;              // what the engine's report calls the model: "meta-llama/Llama-3.2-3B-Instruct"
  std::filesystem::path original;    // the 16-bit Hugging Face folder: tokenizer and config.json
  std::filesystem::path checkpoint;  // what the engine loads, or builds from
  std::filesystem::path tools;       // where random_tokens.py lies
  std::filesystem::path out;         // results of all cases; the case's own lie in OUT/CASE_ID
  std::vector<Workload> workloads;   // all that will run: an engine is built once for the longest
  std::optional<ModelShape> shape;   // empty when it is not known
  // Makes the checkpoint with `quantgrid quantize`; empty when the original folder is loaded, or when the grid names no
  // calibration text, so that the folder must be there already.
  std::optional<CommandLine> make_checkpoint;

  std::filesystem::path case_folder() const { return out / c.id(); }
  std::filesystem::path engine_folder() const;  // of the TensorRT back end; one for each (checkpoint, card)
};

// The case of a row of a plan; everything of the engine lies in `dir`: tools in DIR, results in DIR/results.
EngineCase engine_case(const Grid& grid, const PlanRow& row, const PlanOptions& options,
                       const std::filesystem::path& dir);

struct Measurement {
  std::string workload;
  std::filesystem::path folder;       // OUT/CASE_ID/WORKLOAD
  std::vector<WrittenFile> files;     // to write before anything starts
  std::optional<CommandLine> tokens;  // makes the file of random prompts, where the engine takes a file
  std::filesystem::path tokens_file;
  std::vector<BenchRun> runs;
};

// TensorRT back end: the command that builds the engine of this case. Empty for the others.
std::optional<CommandLine> build_command(const EngineCase& e);

// Whether the engines' own benchmarks measure it: none offers requests at a rate and waits for nobody (trtllm-bench has
// no such option, `vllm bench` only against a server). Such a load is put on the engine's server, by our client.
bool has_benchmark(const Workload& workload);

// Throws Error for the native engine and OpenAI-compatible servers: they are not driven by commands; and for a workload
// without a benchmark.
Measurement measurement(const EngineCase& e, const Workload& workload);

// The engine's server on 127.0.0.1, for load over HTTP. GET `health` answers 200 when it is up.
struct ServeCommand {
  std::filesystem::path folder;    // OUT/CASE_ID/serve
  std::vector<WrittenFile> files;  // to write before it starts
  CommandLine command;
  std::filesystem::path log;
  std::string health = "/health";
};
// Throws Error as measurement() does.
ServeCommand serve_command(const EngineCase& e, int port);

// Writes random prompts as trtllm-bench reads them; plain Python without packages. TOOLS/random_tokens.py.
inline constexpr const char* kTokensProgram = "random_tokens.py";
std::string tokens_program();

}  // namespace qg
