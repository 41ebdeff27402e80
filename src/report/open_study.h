#pragma once
// From files and flags to a study: what `pick` and `report` have in common.
#include <filesystem>
#include <optional>
#include <vector>

#include "report/study.h"

namespace qg {

struct StudyFiles {
  std::vector<std::filesystem::path> results;         // journals and stores
  std::filesystem::path grid;                         // empty: the plan of 45 cases
  std::optional<double> max_ppl_ratio, max_kld_nats;  // over the grid's gates
};

Study open_study(const StudyFiles& files);

}  // namespace qg
