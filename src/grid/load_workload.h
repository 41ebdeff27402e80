#pragma once
// One [[workloads]] table of a grid file; docs/grid.md lists the keys of each kind.
#include "grid/grid.h"
#include "grid/toml_reader.h"

namespace qg {

inline constexpr int64_t kMaxTokens = int64_t{1} << 24;  // of any number of tokens in a grid file

// Throws Error naming file, line, key and what is allowed: unknown keys, keys of another kind, values out of range.
Workload read_workload(const TomlReader& row);

}  // namespace qg
