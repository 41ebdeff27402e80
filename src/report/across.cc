#include "report/across.h"

#include <algorithm>
#include <tuple>

#include "report/explain.h"
#include "report/page.h"

namespace qg {
namespace {

Candidate as_candidate(const AcrossEntry& entry) {
  Candidate c;
  c.case_id = entry.cell->engine;
  c.value = entry.row->value;
  c.ci_lo = entry.row->ci_lo;
  c.ci_hi = entry.row->ci_hi;
  return c;
}

// All requests of a throughput workload are offered at once, so that a speed is one of so many requests. Few never fill
// an engine: only those of the most are compared. Requests of a steady window are counted, not offered.
void leave_out_fewer_requests(const std::string& workload, std::vector<AcrossEntry>& entries) {
  if (workload.empty() || workload[0] < '0' || workload[0] > '9') return;  // throughput is named by its lengths
  const auto offered = [](const AcrossEntry& e) {
    return e.row->protocol.starts_with("steady window") ? 0 : e.row->num_requests.value_or(0);
  };
  int64_t most = 0;
  for (const AcrossEntry& entry : entries) most = std::max(most, offered(entry));
  std::erase_if(entries, [&](const AcrossEntry& e) { return offered(e) > 0 && offered(e) < most; });
}

}  // namespace

std::vector<AcrossRow> across_engines(const Study& study) {
  std::vector<AcrossRow> rows;
  for (size_t i = 0; i < study.cells.size(); ++i) {
    const Cell& first = study.cells[i];
    std::vector<const Cell*> same;
    bool seen_before = false;
    for (size_t j = 0; j < study.cells.size(); ++j) {
      if (study.cells[j].about.id() != first.about.id()) continue;
      seen_before |= j < i;
      same.push_back(&study.cells[j]);
    }
    if (seen_before || same.size() < 2) continue;
    for (const std::string& workload : speed_workloads(same)) {
      AcrossRow across{first.about, workload, {}, {}};
      for (const Cell* cell : same)
        if (const Record* row = shown_speed(*cell, workload);
            row && row->value && *row->value > 0 && !cell->overtaken.contains(row))
          across.entries.push_back({cell, row});
      const auto synthetic = [](const AcrossEntry& entry) { return entry.row->synthetic; };
      if (std::any_of(across.entries.begin(), across.entries.end(), synthetic) &&
          !std::all_of(across.entries.begin(), across.entries.end(), synthetic))
        std::erase_if(across.entries, synthetic);
      leave_out_fewer_requests(workload, across.entries);
      if (across.entries.size() < 2) continue;
      std::sort(across.entries.begin(), across.entries.end(), [](const AcrossEntry& a, const AcrossEntry& b) {
        return std::tuple(-*a.row->value, a.cell->engine) < std::tuple(-*b.row->value, b.cell->engine);
      });
      const Candidate best = as_candidate(across.entries.front());
      for (size_t k = 1; k < across.entries.size(); ++k)
        if (tie_between(best, as_candidate(across.entries[k]), study.gates))
          across.ties.push_back(across.entries[k].cell->engine);
      rows.push_back(std::move(across));
    }
  }
  return rows;
}

std::string across_sentence(const Study& study, const AcrossRow& row, const Speaker& say) {
  const AcrossEntry& best = row.entries.front();
  std::string rest;
  for (size_t i = 1; i < row.entries.size(); ++i) {
    const AcrossEntry& entry = row.entries[i];
    const bool tie = std::find(row.ties.begin(), row.ties.end(), entry.cell->engine) != row.ties.end();
    rest += say("list.comma") + (tie ? say("across.tie", entry.cell->engine, figure(*entry.row->value))
                                     : say("across.times", figure(*best.row->value / *entry.row->value),
                                           entry.cell->engine, figure(*entry.row->value)));
  }
  std::vector<const Record*> rows;
  std::string methods;
  for (const AcrossEntry& entry : row.entries) {
    rows.push_back(entry.row);
    if (const auto method = method_of(*entry.row))
      methods += (methods.empty() ? "" : say("list.comma")) + entry.cell->engine + " " + method_text(*method, say);
  }
  if (methods_differ(rows)) rest += say("across.methods", methods);
  return say("across.row", study.model_label(row.about.model), study.card_label(row.about.gpu), format_label(row.about),
             row.workload, best.cell->engine, figure(*best.row->value)) +
         rest;
}

Json across_engines_as_json(const Study& study) {
  Json list = Json::array();
  for (const AcrossRow& row : across_engines(study)) {
    Json entries = Json::array();
    for (const AcrossEntry& entry : row.entries) {
      Json item{{"engine", entry.cell->engine},
                {"version", entry.row->engine_version},
                {"metric", entry.row->metric},
                {"value", *entry.row->value}};
      if (entry.row->ci_lo && entry.row->ci_hi) item["ci_lo"] = *entry.row->ci_lo, item["ci_hi"] = *entry.row->ci_hi;
      entries.push_back(std::move(item));
    }
    list.push_back(Json{{"across_engines", true},
                        {"case_id", row.about.id()},
                        {"workload", row.workload},
                        {"engines", entries},
                        {"ties", row.ties},
                        {"sentence", across_sentence(study, row, Speaker(Language::en))}});
  }
  return list;
}

}  // namespace qg
