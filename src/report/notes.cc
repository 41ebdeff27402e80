#include "report/notes.h"

#include <algorithm>

namespace qg {

std::string marks_of(const Cell& cell, const Record& row) {
  std::string marks;
  if (row.synthetic) marks += "°";
  if (cell.overtaken.contains(&row)) marks += "†";
  if (cell.is_of_other_checkpoint(row)) marks += "‡";
  if (row.suite == "accuracy" && row.engine != cell.engine) marks += "§";
  return marks;
}

std::vector<std::string> mark_notes(const Study& study, const Speaker& say) {
  std::string all;
  for (const Cell& cell : study.cells) {
    for (const auto& [key, row] : cell.rows)
      if (row->suite == "speed" || row->suite == "accuracy") all += marks_of(cell, *row);
    if (const Record* ppl = cell.accuracy("ppl")) all += marks_of(cell, *ppl);
  }
  std::vector<std::string> notes;
  const auto add = [&](std::string_view mark, std::string_view key) {
    if (all.find(mark) != std::string::npos) notes.push_back(say(key));
  };
  add("°", "grid.synthetic_mark");
  add("†", "grid.overtaken_mark");
  add("‡", "grid.checkpoint_mark");
  add("§", "grid.borrowed_mark");
  return notes;
}

std::vector<FailureNote> failure_notes(const Study& study, const Speaker& say) {
  std::vector<FailureNote> notes;
  for (const Cell& cell : study.cells)
    for (const Record* failed : cell.failures) {
      std::string text = failed->workload + ": " + failed->status;
      if (cell.engine != "native") text = cell.engine + ", " + text;
      if (!failed->error_msg.empty()) text += ": " + failed->error_msg;
      const bool overtook = std::any_of(cell.overtaken.begin(), cell.overtaken.end(),
                                        [&](const Record* row) { return row->workload == failed->workload; });
      if (overtook) text += say("method.failed_since", failed->ended_at.substr(0, 10));
      notes.push_back({cell.about.id(), text});
    }
  return notes;
}

}  // namespace qg
