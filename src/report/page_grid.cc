#include <algorithm>
#include <set>

#include "grid/formats.h"
#include "report/html.h"
#include "report/notes.h"
#include "report/page.h"
#include "report/rate.h"

namespace qg {
namespace {

constexpr const char* kStateSigns[] = {"●", "◆", "◐", "◇", "✕", "⊘", "○"};  // by CellState: shape as well as colour
constexpr std::array kStates{CellState::measured, CellState::emulated,    CellState::elsewhere, CellState::speed_only,
                             CellState::failed,   CellState::unsupported, CellState::not_run};

std::string sign(CellState state) {
  return "<i class=\"sign s-" + std::string(to_string(state)) + "\" aria-hidden=\"true\">" +
         kStateSigns[static_cast<size_t>(state)] + "</i>";
}

std::string measured_elsewhere_on(const Study& study, const Cell& cell) {
  for (const auto& [key, row] : cell.rows)
    if (row->cross_target) return study.short_card_label(row->measured_on);
  return {};
}

std::string state_html(const Study& study, const Cell& cell, const Speaker& say) {
  std::string text = say("state." + std::string(to_string(cell.state)), measured_elsewhere_on(study, cell));
  std::string html = sign(cell.state) + element("span", "", text);
  if (cell.state == CellState::not_run && cell.support.status == SupportStatus::emulated)
    html += element("small", "ci", say("state.would_emulate"));
  const std::string& why = !cell.problem.empty() ? cell.problem : cell.support.reason;
  const std::string title = why.empty() ? "" : " title=\"" + escaped(why) + "\"";
  return "<td class=\"state\"" + title + ">" + html + "</td>";
}

// `cells`: those of the table.
std::string speed_html(const std::vector<const Cell*>& cells, const Cell& cell, const std::string& workload,
                       const Speaker& say) {
  const Record* row = shown_speed(cell, workload);
  if (!row) return wrapped("td", "num none", "–");
  std::string html = element("span", "", figure(*row->value) + marks_of(cell, *row));
  if (row->ci_lo && row->ci_hi) html += element("small", "ci", half_interval(*row->value, *row->ci_lo, *row->ci_hi));
  if (const std::string method = shown_method(cells, cell, workload, say); !method.empty())
    html += element("small", "ci", method);
  const Record* share = cell.row(workload, "roofline_share");
  const std::optional<double> roofline = row->roofline_share ? row->roofline_share
                                         : share             ? share->value
                                                             : std::nullopt;
  if (roofline) html += element("small", "ci", say("grid.roofline", percent(*roofline, 0)));
  return wrapped("td", "num", html);
}

std::string accuracy_html(const Cell& cell, std::string_view metric, bool as_percent) {
  const Record* row = cell.accuracy(metric);
  if (!row) return wrapped("td", "num none", "–");
  const std::string text = as_percent        ? percent(*row->value)
                           : metric == "ppl" ? ppl_figure(*row->value)
                                             : figure(*row->value);
  std::string html = element("span", "", text + marks_of(cell, *row));
  if (row->ci_lo && row->ci_hi)
    html += element("small", "ci", half_interval(*row->value, *row->ci_lo, *row->ci_hi, as_percent));
  return wrapped("td", "num", html);
}

std::string cell_row(const Study& study, const std::vector<const Cell*>& cells, const Cell& cell,
                     const std::vector<std::string>& workloads, bool with_engine, bool with_path, const Speaker& say) {
  std::string html = element("td", "num muted", cell.about.number > 0 ? std::to_string(cell.about.number) : "–");
  html += "<th title=\"" + escaped(study.card_label(cell.about.gpu)) + "\">" +
          escaped(study.short_card_label(cell.about.gpu)) + "</th>";
  html += wrapped("td", "format",
                  "<i class=\"dot w-" + std::string(to_string(cell.about.weights)) + "\" aria-hidden=\"true\"></i>" +
                      element("span", "", weight_format_spec(cell.about.weights).label));
  html += element("td", "", kv_format_spec(cell.about.kv).label);
  if (with_engine) html += element("td", "", cell.engine);
  html += state_html(study, cell, say);
  for (const std::string& workload : workloads) html += speed_html(cells, cell, workload, say);
  html +=
      accuracy_html(cell, "ppl", false) + accuracy_html(cell, "kld_mean", false) + accuracy_html(cell, "top1", true);
  const auto bytes = weights_bytes_of(study, cell);
  html += element("td", "num", bytes ? bytes_figure(*bytes) : "–");
  if (with_path) html += element("td", "path", cell.compute_path.empty() ? "–" : cell.compute_path);
  return "<tr class=\"row-" + std::string(to_string(cell.state)) + "\">" + html + "</tr>";
}

std::string model_table(const Study& study, const std::vector<const Cell*>& cells, const Speaker& say) {
  const bool with_engine =
      std::any_of(cells.begin(), cells.end(), [](const Cell* cell) { return cell->engine != "native"; });
  const bool with_path =
      std::any_of(cells.begin(), cells.end(), [](const Cell* cell) { return !cell->compute_path.empty(); });
  std::vector<std::string> workloads = speed_workloads(cells);
  if (workloads.empty()) workloads = {"decode/b1", "1000/1000"};
  std::string head = element("th", "num", say("grid.number"));
  for (const char* key : {"grid.card", "grid.weights", "grid.kv"}) head += element("th", "", say(key));
  if (with_engine) head += element("th", "", say("grid.engine"));
  head += element("th", "", say("grid.state"));
  for (const std::string& workload : workloads)
    head += wrapped("th", "num", element("span", "", workload) + element("small", "ci", say("grid.tok_s")));
  for (const char* key : {"grid.ppl", "grid.kld", "grid.top1", "grid.bytes"}) head += element("th", "num", say(key));
  if (with_path) head += element("th", "", say("grid.path"));
  std::string rows;
  for (const Cell* cell : cells) rows += cell_row(study, cells, *cell, workloads, with_engine, with_path, say);
  return "<div class=\"scroll\" tabindex=\"0\"><table class=\"cells\"><caption>" +
         escaped(study.model_label(cells[0]->about.model)) + "</caption>" +
         wrapped("thead", "", wrapped("tr", "", head)) + wrapped("tbody", "", rows) + "</table></div>";
}

std::string tables(const Study& study, const std::vector<const Cell*>& cells, const Speaker& say) {
  std::vector<std::string> models;
  for (const Cell* cell : cells)
    if (std::find(models.begin(), models.end(), cell->about.model) == models.end()) models.push_back(cell->about.model);
  std::string html;
  for (const std::string& model : models) {
    std::vector<const Cell*> own;
    for (const Cell* cell : cells)
      if (cell->about.model == model) own.push_back(cell);
    html += model_table(study, own, say);
  }
  return html;
}

std::string legend(const Study& study, const Speaker& say) {
  std::string items;
  for (CellState state : kStates) {
    const auto count =
        std::count_if(study.cells.begin(), study.cells.end(), [&](const Cell& c) { return c.state == state; });
    const std::string key(to_string(state));
    const std::string name =
        state == CellState::elsewhere ? say("state.elsewhere_plain") : say("state." + key, std::string());
    items +=
        wrapped("li", count == 0 ? "empty" : "",
                sign(state) + element("strong", "", name) + " " + element("span", "count num", std::to_string(count)) +
                    element("span", "muted", say("legend." + key)));
  }
  return "<ul class=\"legend\" aria-label=\"" + escaped(say("grid.legend")) + "\">" + items + "</ul>";
}

int workload_order(const std::string& workload) {
  if (workload.starts_with("decode/b")) return 0;
  return workload.starts_with("prefill/") ? 2 : 1;
}

}  // namespace

const Record* shown_speed(const Cell& cell, const std::string& workload) {
  for (const char* metric : {"output_tok_s", "prefill_tok_s"}) {
    if (workload.starts_with("prefill/") != (std::string_view(metric) == "prefill_tok_s")) continue;
    const Record* row = cell.row(workload, metric);
    if (row && !row->cross_target && !row->request_rate) return row;
  }
  return nullptr;
}

std::string shown_method(const std::vector<const Cell*>& cells, const Cell& cell, const std::string& workload,
                         const Speaker& say) {
  std::vector<const Record*> rows;
  for (const Cell* each : cells) rows.push_back(shown_speed(*each, workload));
  const Record* own = shown_speed(cell, workload);
  if (!own || !methods_differ(rows)) return {};
  return method_text(*method_of(*own), say);
}

std::vector<std::string> speed_workloads(const std::vector<const Cell*>& cells) {
  std::set<std::string> names;
  for (const Cell* cell : cells)
    for (const auto& [key, row] : cell->rows)
      if (shown_speed(*cell, key.first)) names.insert(key.first);
  std::vector<std::string> list(names.begin(), names.end());
  std::sort(list.begin(), list.end(), [](const std::string& a, const std::string& b) {
    // b8 before b64: shorter names first within a kind.
    return std::tuple(workload_order(a), a.size(), a) < std::tuple(workload_order(b), b.size(), b);
  });
  return list;
}

std::string grid_section(const Study& study, const PageOptions& options) {
  const Speaker say(options.language);
  std::vector<const Cell*> planned, others;
  for (const Cell& cell : study.cells) (cell.in_grid ? planned : others).push_back(&cell);
  std::string html = element("h2", "", say("grid.title")) + legend(study, say);
  html += element("p", "muted small", say("grid.note_speed") + " " + say("method.reading"));
  if (!others.empty()) html += element("h3", "", say("grid.others")) + tables(study, others, say);
  if (!planned.empty()) html += element("h3", "", say("grid.plan", study.grid->title)) + tables(study, planned, say);
  html += rate_html(study, say);
  for (const std::string& note : mark_notes(study, say)) html += element("p", "muted small", note);
  return "<section id=\"grid\">" + html + "</section>";
}

}  // namespace qg
