#pragma once
// The commands that make and measure one case on the native engine, as a shell script: `plan --emit`. Scripts of other
// engines are made by src/engines/script.h.
#include <string>

#include "grid/plan.h"

namespace qg {

// Calibration of the KV cache of a model that is run from its own folder.
std::filesystem::path kv_scales_file(const Grid& grid, const std::filesystem::path& model_folder);

// "case-02.sh"; implied cases have no number and are called by their id.
std::string script_name(const Case& c, size_t digits = 2);
// A whole script with the reason and the estimates as comments. An unsupported case's script says why and ends with 4.
// Throws Error when the rows are of another engine than the native one.
std::string case_script(const Grid& grid, const PlanRow& row, const PlanOptions& options);
// What `quantgrid bench` is told of a rate workload, beside its lengths: " --rate 8 --requests 480 …".
std::string rate_flags(const Workload& workload);
// `text` as one word of a POSIX shell.
std::string shell_quoted(const std::string& text);

}  // namespace qg
