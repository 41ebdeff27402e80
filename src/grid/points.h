#pragma once
// Workloads of a grid by name: what `run --points` asks for.
#include "grid/grid.h"

namespace qg {

// Workloads of the profile; with `points` only those of these names. Throws Error for a name that the profile has not:
// a slip of the keyboard would measure nothing.
std::vector<Workload> workloads_named(const Grid& grid, Profile profile, const std::vector<std::string>& points);

}  // namespace qg
