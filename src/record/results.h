#pragma once
// Results of one or many journals as one set whose content does not depend on the order of the files.
#include <filesystem>
#include <string>
#include <vector>

#include "record/journal.h"

namespace qg {

// An attempt with its place among the attempts at the same case_key.
struct StoredAttempt {
  Attempt attempt;
  bool chosen = false;     // the newest valid attempt with status ok; otherwise the newest
  bool disagrees = false;  // a value differs from the chosen attempt's by more than both intervals (or 10 %) allow
};

struct Results {
  std::vector<Environment> runs;        // by run_id
  std::vector<StoredAttempt> attempts;  // by case_id, case_key, end, run_id, attempt

  const Environment& run(const std::string& run_id) const;  // throws Error when absent
  std::vector<const Attempt*> chosen() const;
};

// Joins, drops exact duplicates, sorts, chooses. Throws Error when two files hold different content for the same
// run_id, case_key and attempt.
Results merge_runs(std::vector<JournalRun> runs);

// Journals (.jsonl) and stores (.db), told apart by content, not by name.
Results load_results(const std::vector<std::filesystem::path>& files);

}  // namespace qg
