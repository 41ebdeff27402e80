#pragma once
// From files and flags to a study: what `pick` and `report` have in common.
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "report/study.h"

namespace qg {

struct StudyFiles {
  std::vector<std::filesystem::path> results;         // journals and stores
  std::filesystem::path grid;                         // empty: the plan of 45 cases
  std::optional<double> max_ppl_ratio, max_kld_nats;  // over the grid's gates
  std::vector<std::string> engines;                   // only results of these: "native", "vllm"; empty: of all
};

// Throws Error when a named engine has no results. "tensorrt-llm" names both of its back ends.
Study open_study(const StudyFiles& files);

}  // namespace qg
