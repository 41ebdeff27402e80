#pragma once
// What must stand beside the figures: marks with their meaning, and the measurements that failed.
#include <string>
#include <vector>

#include "report/study.h"
#include "report/texts.h"

namespace qg {

// The signs behind a figure of the cell: ° random weights, † a newer attempt failed, ‡ of another checkpoint than the
// accuracy, § accuracy of another engine. Most often none.
std::string marks_of(const Cell& cell, const Record& row);
// What the marks of this study mean, a sentence each; empty when it has none.
std::vector<std::string> mark_notes(const Study& study, const Speaker& say);

struct FailureNote {
  std::string case_id, text;
};
std::vector<FailureNote> failure_notes(const Study& study, const Speaker& say);

}  // namespace qg
