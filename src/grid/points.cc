#include "grid/points.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "grid/toml_reader.h"

namespace qg {

std::vector<Workload> workloads_named(const Grid& grid, Profile profile, const std::vector<std::string>& points) {
  std::vector<Workload> chosen = grid.workloads_of(profile);
  if (points.empty()) return chosen;
  std::vector<std::string> names;
  for (const Workload& w : chosen) names.push_back(w.name);
  for (const std::string& point : points) {
    if (std::find(names.begin(), names.end(), point) != names.end()) continue;
    if (std::any_of(grid.workloads.begin(), grid.workloads.end(), [&](const Workload& w) { return w.name == point; }))
      throw Error(fmt::format("\"{}\" is a workload of the profile full", point), "--points", "add --profile full");
    throw Error(fmt::format("the grid has no workload \"{}\"", point), "--points", allowed_values(point, names));
  }
  std::erase_if(chosen,
                [&](const Workload& w) { return std::find(points.begin(), points.end(), w.name) == points.end(); });
  return chosen;
}

}  // namespace qg
