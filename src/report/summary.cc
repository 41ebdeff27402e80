#include "report/summary.h"

#include <algorithm>
#include <sstream>
#include <tuple>

#include "core/error.h"
#include "grid/formats.h"
#include "report/rate.h"
#include "report/texts.h"

namespace qg {
namespace {

Json summary_row(const Record& row, const Environment& run) {
  Json out{{"model", row.model},       {"weights", row.weights},         {"kv", row.kv},
           {"target", row.target},     {"measured_on", row.measured_on}, {"cross_target", row.cross_target},
           {"workload", row.workload}, {"metric", row.metric},           {"value", *row.value},
           {"unit", row.unit}};
  if (row.ci_lo) out["ci_lo"] = *row.ci_lo;
  if (row.ci_hi) out["ci_hi"] = *row.ci_hi;
  if (!row.compute_path.empty()) out["compute_path"] = row.compute_path;
  if (row.roofline_share) out["roofline_share"] = *row.roofline_share;
  out["synthetic"] = row.synthetic;
  out["engine"] = row.engine;
  out["machine"] = run.machine;
  out["commit"] = run.commit;
  out["date"] = row.ended_at.substr(0, 10);
  return out;
}

// Cells that a marker's words ask for.
struct TableRequest {
  std::string table, model, gpu;
};

std::string with_interval(const Record* row) {
  if (!row) return "–";
  std::string text = figure(*row->value);
  if (row->ci_lo && row->ci_hi) text += " [" + figure(*row->ci_lo) + ", " + figure(*row->ci_hi) + "]";
  return text;
}

// Of a figure that was measured again since, when that failed.
std::string age_note(const Cell& cell, const Record& row) {
  return cell.overtaken.contains(&row) ? " (older: a newer attempt failed)" : "";
}

std::string share_of_roofline(const Cell& cell, const Record& speed) {
  if (speed.roofline_share) return percent(*speed.roofline_share, 0);
  const Record* row = cell.row(speed.workload, "roofline_share");
  return row ? percent(*row->value, 0) : "–";
}

std::string names_of(const Study& study, const Cell& cell) {
  return "| " + study.model_label(cell.about.model) + " | " + study.card_label(cell.about.gpu) + " | " +
         std::string(weight_format_spec(cell.about.weights).label) + " | " +
         std::string(kv_format_spec(cell.about.kv).label) + " | ";
}

std::string speed_lines(const Study& study, const Cell& cell) {
  std::string lines;
  for (const auto& [key, row] : cell.rows) {
    if (key.second != "output_tok_s" && key.second != "prefill_tok_s") continue;
    if (row->cross_target || row->request_rate) continue;  // never shown as this card's speed
    const std::string path = row->compute_path.empty() ? cell.compute_path : row->compute_path;
    lines += names_of(study, cell) + key.first + (row->synthetic ? " (random weights: speed only)" : "") + " | " +
             with_interval(row) + age_note(cell, *row) + " | " + (path.empty() ? "–" : path) + " | " +
             share_of_roofline(cell, *row) + " | " + row->ended_at.substr(0, 10) + " |\n";
  }
  return lines;
}

std::string rate_lines(const Study& study, const Cell& cell) {
  std::string lines;
  const Speaker say(Language::en);
  for (const RateRow& row : rate_rows(study)) {
    if (row.cell != &cell) continue;
    lines += names_of(study, cell) + cell.engine;
    for (const std::string& value : rate_figures_of(row, say)) lines += " | " + value;
    lines += (row.about->synthetic ? " | random weights | " : " | real weights | ") +
             row.about->ended_at.substr(0, 10) + " |\n";
  }
  return lines;
}

std::string accuracy_line(const Study& study, const Cell& cell) {
  const Record* ppl = cell.accuracy("ppl");
  if (!ppl) return {};
  return names_of(study, cell) + with_interval(ppl) + age_note(cell, *ppl) + " | " +
         with_interval(cell.accuracy("kld_mean")) + " | " + with_interval(cell.accuracy("top1")) + " | " +
         (ppl->compute_path.empty() ? "–" : ppl->compute_path) + " | " +
         (ppl->cross_target ? ppl->measured_on : "own card") + " | " + ppl->ended_at.substr(0, 10) + " |\n";
}

std::string memory_line(const Study& study, const Cell& cell) {
  const auto weights = weights_bytes_of(study, cell);
  const auto footprint = footprint_bytes(study, cell);
  if (!weights || !footprint) return {};
  const Record* batch = cell.row("max_batch");
  const Record* peak = cell.row("peak_rss_bytes");
  if (const Record* gpu = cell.row("peak_gpu_bytes")) peak = gpu;
  return names_of(study, cell) + bytes_figure(*weights) + " | " + bytes_figure(*footprint) + " | " +
         (batch ? figure(*batch->value) : "–") + " | " + (peak ? bytes_figure(*peak->value) : "–") + " |\n";
}

std::string table_head(const std::string& table, const Study& study) {
  const std::string context = figure(static_cast<double>(study.gates.context_tokens));
  if (table == "speed")
    return "| model | card | weights | KV | workload | tok/s [95 %] | computed as | of roofline | date |\n"
           "|---|---|---|---|---|--:|---|--:|---|\n";
  if (table == "rate")
    return "| model | card | weights | KV | engine | load | finished, 1/s | good, 1/s | TTFT, ms p50 / p90 / p99 | "
           "TPOT, "
           "ms p50 / p90 / p99 | | date |\n|---|---|---|---|---|---|--:|--:|--:|--:|---|---|\n";
  if (table == "accuracy")
    return "| model | card | weights | KV | perplexity [95 %] | KL, nats [95 %] | top-1 [95 %] | computed as | "
           "measured on "
           "| date |\n|---|---|---|---|--:|--:|--:|---|---|---|\n";
  return "| model | card | weights | KV | weights, bytes | with " + context +
         " tokens of KV | greatest batch | peak |\n"
         "|---|---|---|---|--:|--:|--:|--:|\n";
}

std::string machines_line(const Study& study, const TableRequest& request) {
  std::vector<std::string> machines;
  for (const Cell& cell : study.cells) {
    if ((!request.model.empty() && cell.about.model != request.model) ||
        (!request.gpu.empty() && cell.about.gpu != request.gpu))
      continue;
    for (const auto& [key, row] : cell.rows) {
      const Environment& run = study.results.run(row->run_id);
      std::string machine = run.gpu.empty() ? run.machine + (run.cpu.empty() ? "" : " (" + run.cpu + ")") : run.gpu;
      if (!run.driver.empty()) machine += ", driver " + run.driver;
      machine += ", commit " + run.commit;
      if (std::find(machines.begin(), machines.end(), machine) == machines.end()) machines.push_back(machine);
    }
  }
  std::string text;
  for (const std::string& machine : machines) text += (text.empty() ? "" : "; ") + machine;
  return text;
}

std::string result_table(const Study& study, const TableRequest& request) {
  std::string body;
  for (const Cell& cell : study.cells) {
    if (!cell.has_results()) continue;
    if (!request.model.empty() && cell.about.model != request.model) continue;
    if (!request.gpu.empty() && cell.about.gpu != request.gpu) continue;
    if (request.table == "speed") body += speed_lines(study, cell);
    if (request.table == "rate") body += rate_lines(study, cell);
    if (request.table == "accuracy") body += accuracy_line(study, cell);
    if (request.table == "memory") body += memory_line(study, cell);
  }
  if (body.empty()) return "Not measured yet.\n";
  return table_head(request.table, study) + body + "\nMeasured on: " + machines_line(study, request) + ".\n";
}

TableRequest parse_request(const std::string& words, const std::string& where) {
  std::istringstream in(words);
  TableRequest request;
  std::string rest;
  in >> request.table >> request.model >> request.gpu >> rest;
  const bool known =
      request.table == "speed" || request.table == "rate" || request.table == "accuracy" || request.table == "memory";
  if (!known || !rest.empty())
    throw Error(
        "marker \"results:" + words + "\" is not known", where,
        "write <!-- results:speed -->, rate, accuracy or memory, with a model and a card behind it if you like");
  return request;
}

}  // namespace

std::string summary_json(const Results& results) {
  std::vector<const Record*> rows;
  for (const Attempt* attempt : results.chosen()) {
    if (attempt->done.subject.status != "ok" || !attempt->done.subject.valid) continue;
    for (const Record& row : attempt->rows)
      if (row.valid && row.status == "ok" && !row.round && !row.rep) rows.push_back(&row);
  }
  const auto order = [](const Record* r) {
    return std::tie(r->model, r->target, r->weights, r->kv, r->workload, r->metric, r->measured_on, r->engine,
                    r->ended_at, r->case_key);
  };
  std::stable_sort(rows.begin(), rows.end(), [&](const Record* a, const Record* b) { return order(a) < order(b); });
  std::string text = "[";
  for (const Record* row : rows)
    text += std::string(row == rows.front() ? "\n" : ",\n") +
            summary_row(*row, results.run(row->run_id)).dump(-1, ' ', false, Json::error_handler_t::replace);
  return text + "\n]\n";
}

std::string with_result_tables(std::string_view page, const Study& study, const std::string& where) {
  constexpr std::string_view kOpen = "<!-- results:", kEnd = " -->", kClose = "<!-- /results -->";
  std::string out;
  size_t at = 0;
  for (size_t open; (open = page.find(kOpen, at)) != std::string_view::npos;) {
    const size_t words = open + kOpen.size(), end = page.find(kEnd, words);
    const size_t close = end == std::string_view::npos ? end : page.find(kClose, end);
    const size_t next = end == std::string_view::npos ? end : page.find(kOpen, end);
    if (close == std::string_view::npos || next < close)
      throw Error("a results marker is not closed", where + ", \"" + std::string(page.substr(open, 40)) + "\"",
                  "put <!-- /results --> behind its table");
    const TableRequest request = parse_request(std::string(page.substr(words, end - words)), where);
    out += page.substr(at, end + kEnd.size() - at);
    out += "\n" + result_table(study, request);
    at = close;
  }
  return out + std::string(page.substr(at));
}

}  // namespace qg
