#pragma once
// The grid through another engine on this machine: every case that is not done yet, one after the other, into the same
// journal that the native engine writes. Nothing that an engine does ends the run; each failure is a row with a reason.
#include <filesystem>
#include <functional>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "engines/engine_run.h"
#include "grid/plan.h"
#include "record/case_key.h"
#include "record/journal.h"

namespace qg {

struct EngineGridOptions {
  std::string measured_on;          // card that runs: "h100"
  std::filesystem::path dir;        // tools, prompts, built engines, reports and logs; as `plan --emit DIR` uses it
  std::vector<std::string> points;  // workloads that are run; empty: all of the profile
  bool rerun = false;               // what is done is measured again
  bool attempt = false;             // unsupported cases are run all the same
  bool served = false;              // the driver loads servers: rows are of the engine "NAME/served"
  std::string prompts;              // how a served load asks where not by token ids: "text", "chat"
  std::function<std::string(const GridModel&)> base_hash;                       // of the original weights
  std::function<std::string(const std::filesystem::path& folder)> recipe_hash;  // of a checkpoint that is there
};

class EngineGridRun {
 public:
  // rows: cases of the card that runs, as plan.h makes them for this engine.
  EngineGridRun(const Grid& grid, std::vector<PlanRow> rows, const PlanOptions& plan, EngineGridOptions options,
                EngineDriver& driver, JournalWriter& journal);

  // Throws Error only when the run as a whole cannot go on: interrupted, the journal's disk full.
  void run();
  int failed_cases() const { return static_cast<int>(failed_.size()); }
  int unsupported_cases() const { return unsupported_; }
  std::vector<Workload> workloads() const;
  // Newest rows of a case by "WORKLOAD METRIC"; empty where it was not measured.
  std::map<std::string, Record> measured_rows(const PlanRow& row) const;
  const std::vector<PlanRow>& rows() const { return rows_; }

 private:
  struct Part {
    std::string key;
    Record common;
  };
  Part part(const PlanRow& row, const EngineCase& e, const Workload* workload, const std::string& name) const;
  bool wanted(const std::string& key) const;
  void run_case(const PlanRow& row);
  void append(const Part& part, const EngineRun& run);
  std::string engine_key() const;

  const Grid& grid_;
  std::vector<PlanRow> rows_;
  PlanOptions plan_;
  EngineGridOptions options_;
  EngineDriver& driver_;
  JournalWriter& journal_;
  EngineRun checked_;  // what driver.check() said
  std::set<std::string> failed_;
  int unsupported_ = 0;
  mutable std::map<std::string, std::string> base_hashes_, recipe_hashes_;
};

}  // namespace qg
