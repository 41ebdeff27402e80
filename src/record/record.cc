#include "record/record.h"

#include <array>
#include <chrono>
#include <cmath>
#include <ctime>

#include "core/error.h"
#include "core/format.h"
#include "record/metrics.h"

namespace qg {
namespace {

constexpr std::array<std::string_view, 8> kStatusNames{
    "ok", "oom", "timeout", "crash", "failed", "skipped_unsupported", "skipped_no_memory", "invalid"};

void require(bool holds, const char* field, const std::string& problem) {
  if (!holds) throw Error("a result cannot be recorded: " + problem, std::string("field \"") + field + "\"");
}

}  // namespace

std::string_view to_string(CaseStatus status) {
  return kStatusNames[static_cast<size_t>(status)];
}

std::optional<CaseStatus> parse_case_status(std::string_view name) {
  for (size_t i = 0; i < kStatusNames.size(); ++i)
    if (kStatusNames[i] == name) return static_cast<CaseStatus>(i);
  return {};
}

bool is_final(CaseStatus status) {
  return status == CaseStatus::ok || status == CaseStatus::skipped_unsupported ||
         status == CaseStatus::skipped_no_memory;
}

Record measured(const Record& common, std::string_view metric, double value) {
  const MetricSpec* spec = find_metric(metric);
  if (!spec) throw Error("there is no metric \"" + std::string(metric) + "\"", "", "docs/schema.md lists them");
  Record row = common;
  row.metric = spec->name;
  row.unit = spec->unit;
  row.stat = spec->stat;
  row.suite = spec->suite;
  row.phase = spec->phase;
  row.value = value;
  return row;
}

void check_record(const Record& record) {
  require(!record.case_key.empty(), "case_key", "it is empty");
  require(!record.model.empty(), "model", "it is empty");
  require(!record.workload.empty(), "workload", "it is empty");
  require(!record.target.empty(), "target", "it is empty");
  require(!record.measured_on.empty(), "measured_on", "it is empty");
  require(record.cross_target == (record.target != record.measured_on), "cross_target",
          "target is \"" + record.target + "\", measured_on \"" + record.measured_on + "\"");
  require(parse_weight_format(record.weights).has_value(), "weights",
          "\"" + record.weights + "\" is not a weight format");
  require(parse_kv_format(record.kv).has_value(), "kv", "\"" + record.kv + "\" is not a KV format");
  require(record.compute_path.empty() || parse_compute_path(record.compute_path), "compute_path",
          "\"" + record.compute_path + "\" is not a compute path");
  require(parse_case_status(record.status).has_value(), "status", "\"" + record.status + "\" is not a status");
  if (record.metric.empty()) return;  // the line that ends a case
  const MetricSpec* spec = find_metric(record.metric);
  require(spec != nullptr, "metric", "there is no metric \"" + record.metric + "\"");
  require(record.unit == spec->unit, "unit", "\"" + record.unit + "\" is not the unit of " + record.metric);
  require(record.value && std::isfinite(*record.value), "value", record.metric + " has no finite value");
  for (const std::optional<double>& end : {record.ci_lo, record.ci_hi})
    require(!end || std::isfinite(*end), "ci_lo", record.metric + " has an interval that is not finite");
}

}  // namespace qg
