#pragma once
// The tables that `plan` prints. Lines stay within about 150 columns; long reasons stand once, as notes below the
// table.
#include <string>

#include "grid/plan.h"

namespace qg {

std::string plan_table(const Grid& grid, const std::vector<PlanRow>& rows, const PlanOptions& options);
std::string checkpoint_table(const std::vector<PlanCheckpoint>& checkpoints);
std::string index_table(const std::vector<PlanIndexRow>& index);

// "45 s", "12 min", "3.4 h"
std::string duration_text(double seconds);
// "1", "64", "3.5k", "1.2M": at most five characters
std::string count_text(double value);
// "1-4, 7, 9-10"
std::string ranges_text(const std::vector<int>& numbers);

}  // namespace qg
