#pragma once
// One bash script for all cases of a (model, card) on an engine: `quantgrid plan GRID --engine E --emit DIR`.
#include <filesystem>
#include <string>
#include <vector>

#include "engines/commands.h"
#include "grid/plan.h"

namespace qg {

struct EmittedFile {
  std::string name;  // "llama-3.2-3b-a100.sh"
  std::string text;
  bool is_program = true;
};

// Scripts in the order of the grid, and random_tokens.py where an engine needs it. Results go to DIR/results/CASE_ID.
// Throws Error when the engine is not driven by commands.
std::vector<EmittedFile> engine_scripts(const Grid& grid, const std::vector<PlanRow>& rows, const PlanOptions& options,
                                        const std::filesystem::path& dir);

// Writes the files into `dir`: a new or empty folder appears whole; with `replace`, files of an existing folder are
// replaced one by one and everything else in it (results!) stays. Throws Error.
void write_emitted(const std::vector<EmittedFile>& files, const std::filesystem::path& dir, bool replace);

// "trtllm-build --checkpoint_dir …" for a shell, a line for each option; words are quoted where they must be.
std::string shell_command(const std::vector<std::string>& argv, const std::string& indent);

}  // namespace qg
