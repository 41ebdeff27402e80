#include "engines/engine_run.h"

#include <utility>

namespace qg {
namespace {

// What every line of a run says alike.
Record with_run(const Record& common, const EngineRun& run) {
  Record row = common;
  if (!run.engine_version.empty()) row.engine_version = run.engine_version;
  if (!run.engine_flags.empty()) row.engine_flags = run.engine_flags;
  row.compute_path = run.compute_path;
  if (!run.kernels.empty()) row.kernels = run.kernels;
  if (run.rounds) row.rounds = run.rounds;
  row.num_requests = run.requests;
  row.num_failed = run.failed;
  row.batch_achieved = run.batch_achieved;
  row.window_s = run.window_s;
  row.status = to_string(run.status);
  row.error_code = run.error_code;
  row.error_msg = run.reason;
  if (!run.ok()) {
    row.valid = false;
    if (run.status == CaseStatus::invalid) row.invalid_reasons = Json::array({run.error_code});
  }
  return row;
}

}  // namespace

EngineRun failed_run(CaseStatus status, std::string error_code, std::string reason) {
  EngineRun run;
  run.status = status;
  run.error_code = std::move(error_code);
  run.reason = std::move(reason);
  return run;
}

std::vector<Record> engine_rows(const Record& common, const EngineRun& run) {
  std::vector<Record> rows;
  if (!run.ok() && run.status != CaseStatus::invalid) return rows;
  const Record about = with_run(common, run);
  for (const EngineMetric& metric : run.metrics) {
    Record row = measured(about, metric.name, metric.value);
    row.n = metric.n;
    row.ci_lo = metric.ci_lo;
    row.ci_hi = metric.ci_hi;
    row.ci_level = metric.ci_level;
    row.ci_method = metric.ci_method;
    rows.push_back(std::move(row));
  }
  return rows;
}

CaseDone engine_done(const Record& common, const EngineRun& run) {
  CaseDone done;
  done.subject = with_run(common, run);
  done.seconds = run.seconds;
  return done;
}

}  // namespace qg
