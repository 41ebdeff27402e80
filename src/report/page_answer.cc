#include <algorithm>

#include "grid/formats.h"
#include "report/across.h"
#include "report/explain.h"
#include "report/html.h"
#include "report/notes.h"
#include "report/page.h"

namespace qg {
namespace {

constexpr size_t kGlanceFrom = 3;  // groups from which a table of all winners stands before the details

std::string dot(WeightFormat weights) {
  return "<i class=\"dot w-" + std::string(to_string(weights)) + "\" aria-hidden=\"true\"></i>";
}

std::string format_html(const Case& about) {
  return dot(about.weights) + element("span", "", format_label(about));
}

// What a person should do for this use, as the large line of the card.
const Candidate* shown_candidate(const Pick& pick) {
  return pick.winner ? &*pick.winner : pick.least_bad ? &*pick.least_bad : nullptr;
}

std::string against_baseline(const Study& study, const Group& group, const UsePick& use, const Candidate& shown,
                             const Speaker& say) {
  if (!group.baseline || shown.case_id == group.baseline->about.id() || use.measure.kind == MeasureKind::footprint)
    return {};
  if (const Record* row = speed_row(*group.baseline, use.measure)) {
    const auto method = method_of(*row);
    if (row->cross_target || group.baseline->overtaken.contains(row) ||
        (method && use.method && methods_differ(*method, *use.method)))
      return {};
  }
  const std::optional<double> base = value_of(study, *group.baseline, use.measure);
  if (!base || *base <= 0) return {};
  return element("span", "chip num", say("answer.against_base", figure(*shown.value / *base)));
}

std::string rest_of_use(const Study& study, const Group& group, const UsePick& use, const Speaker& say) {
  const Pick& pick = use.pick;
  std::string html;
  const auto line = [&](std::string_view key, const Candidate& other) {
    const Cell& cell = *group.cell(other.case_id);
    html += wrapped("div", "other",
                    element("span", "muted", say(key)) + " " + format_html(cell.about) + " " +
                        element("span", "num muted", measure_value(study, cell, use.measure, *other.value, say)));
  };
  for (const Candidate& tie : pick.ties) line("answer.tie", tie);
  if (pick.runner_up) line("answer.runner_up", *pick.runner_up);
  return html;
}

std::string use_item(const Study& study, const Group& group, Use which, const Speaker& say) {
  const UsePick& use = group.for_use(which);
  std::string html = wrapped("div", "use-name",
                             element("strong", "", say("use." + std::string(to_string(which)))) +
                                 element("span", "muted", use_hint(study, use, say)));
  const Candidate* shown = shown_candidate(use.pick);
  if (!shown) {
    html += wrapped("div", "use-pick",
                    element("span", "muted", say(use.any_value ? "answer.no_rank" : "answer.not_measured")));
    return wrapped("li", "use", html);
  }
  const Cell& cell = *group.cell(shown->case_id);
  std::string pick_html;
  if (!use.pick.winner) pick_html += element("p", "warning", say("answer.least_bad", format_label(cell.about)));
  pick_html += wrapped("div", "winner",
                       wrapped("strong", "format", format_html(cell.about)) +
                           element("span", "value num", measure_value(study, cell, use.measure, *shown->value, say)) +
                           against_baseline(study, group, use, *shown, say));
  return wrapped("li", "use", html + wrapped("div", "use-pick", pick_html + rest_of_use(study, group, use, say)));
}

std::string interval_html(const Cell& cell, const Record* row, bool as_percent = false) {
  if (!row) return "–";
  std::string html =
      element("span", "", (as_percent ? percent(*row->value) : figure(*row->value)) + marks_of(cell, *row));
  if (row->ci_lo && row->ci_hi)
    html += element("small", "ci", half_interval(*row->value, *row->ci_lo, *row->ci_hi, as_percent));
  return html;
}

std::string ppl_html(const Cell& cell) {
  const Record* ppl = cell.accuracy("ppl");
  const auto ratio = ppl_ratio_of(cell);
  if (!ppl) return "–";
  std::string html = element("span", "", ppl_figure(*ppl->value) + marks_of(cell, *ppl));
  if (ratio && !cell.about.is_fp16_baseline()) html += element("small", "ci", signed_percent(*ratio - 1));
  return html;
}

std::string weights_html(const Study& study, const Group& group, const Cell& cell, const Speaker& say) {
  const auto bytes = weights_bytes_of(study, cell);
  if (!bytes) return "–";
  std::string html = element("span", "", bytes_figure(*bytes));
  const auto base = group.baseline ? weights_bytes_of(study, *group.baseline) : std::nullopt;
  if (base && *base > 0 && !cell.about.is_fp16_baseline())
    html += element("small", "ci", say("cost.of_fp16", percent(*bytes / *base, 0)));
  return html;
}

// The workload whose speed costs are reckoned by: of those that most of the cells have, the one that fills a card best.
std::string cost_workload(const std::vector<const Cell*>& cells) {
  std::string best;
  std::ptrdiff_t most = 0;
  for (const char* workload : {"1000/1000", "decode/b64", "decode/b8", "decode/b1"}) {
    const auto have = std::count_if(cells.begin(), cells.end(),
                                    [&](const Cell* cell) { return shown_speed(*cell, workload) != nullptr; });
    if (have > most) best = workload, most = have;
  }
  return best;
}

// The formats that are named above, and the baseline that they are compared with.
std::vector<const Cell*> named_cells(const Group& group) {
  std::vector<const Cell*> cells;
  const auto add = [&](const Cell* cell) {
    if (cell && std::find(cells.begin(), cells.end(), cell) == cells.end()) cells.push_back(cell);
  };
  for (const UsePick& use : group.picks) {
    if (const Candidate* shown = shown_candidate(use.pick)) add(group.cell(shown->case_id));
    for (const Candidate& tie : use.pick.ties) add(group.cell(tie.case_id));
    if (use.pick.runner_up) add(group.cell(use.pick.runner_up->case_id));
  }
  add(group.baseline);
  return cells;
}

std::string costs_table(const Study& study, const Group& group, const PageOptions& options, const Speaker& say) {
  const std::vector<const Cell*> cells = named_cells(group);
  if (cells.empty()) return {};
  const bool with_cost = options.prices && options.prices->per_hour.contains(group.gpu);
  std::string head;
  for (const char* key : {"answer.format", "cost.ppl", "cost.kld", "cost.top1", "cost.weights"})
    head += element("th", head.empty() ? "" : "num", say(key));
  const std::string workload = cost_workload(cells);
  if (with_cost) {
    std::string title = element("span", "", say("cost.money", options.prices->currency));
    if (!workload.empty()) title += element("small", "ci", workload);
    head += wrapped("th", "num", title);
  }
  std::string rows;
  for (const Cell* cell : cells) {
    std::string row =
        wrapped("th", "format",
                dot(cell->about.weights) + element("span", "", weight_format_spec(cell->about.weights).label) +
                    element("small", "ci kv", "+ " + std::string(kv_format_spec(cell->about.kv).label) + " KV"));
    row += wrapped("td", "num", ppl_html(*cell));
    row +=
        wrapped("td", "num", cell->about.is_fp16_baseline() ? "0" : interval_html(*cell, cell->accuracy("kld_mean")));
    row +=
        wrapped("td", "num", cell->about.is_fp16_baseline() ? "–" : interval_html(*cell, cell->accuracy("top1"), true));
    row += wrapped("td", "num", weights_html(study, group, *cell, say));
    if (with_cost) {
      const Record* speed = shown_speed(*cell, workload);
      const auto cost = speed ? options.prices->per_million_tokens(group.gpu, *speed->value) : std::nullopt;
      row += element("td", "num", cost ? figure(*cost) + marks_of(*cell, *speed) : "–");
    }
    rows += wrapped("tr", "", row);
  }
  return element("h4", "", say("answer.price")) + "<div class=\"scroll\" tabindex=\"0\"><table class=\"costs\">" +
         wrapped("thead", "", wrapped("tr", "", head)) + wrapped("tbody", "", rows) + "</table></div>";
}

std::string sure_list(const Study& study, const Group& group, const Speaker& say) {
  std::string sure, rest;
  std::vector<std::pair<std::string, std::string>> left_out;  // sentence, uses: most often one sentence for all uses
  for (Use use : kUses) {
    if (const std::string text = confidence_sentence(group, use, say); !text.empty()) sure += element("li", "", text);
    const std::string text = excluded_sentence(study, group, use, say),
                      name = say("use." + std::string(to_string(use)));
    if (text.empty()) continue;
    const auto same =
        std::find_if(left_out.begin(), left_out.end(), [&](const auto& entry) { return entry.first == text; });
    if (same == left_out.end())
      left_out.emplace_back(text, name);
    else
      same->second += say("list.comma") + name;
  }
  for (const auto& [text, uses] : left_out) rest += wrapped("li", "", element("span", "", uses + ": " + text));
  std::string html;
  if (!sure.empty()) html += element("h4", "", say("answer.sure")) + wrapped("ul", "small", sure);
  if (!rest.empty()) html += wrapped("ul", "small muted", rest);
  return html;
}

std::string group_card(const Study& study, const Group& group, const PageOptions& options, const Speaker& say) {
  std::string eyebrow = element("span", "", group.on_cpu ? say("answer.cpu") : study.card_label(group.gpu));
  if (group.engine != "native") eyebrow += element("span", "badge", group.engine);
  std::string html =
      wrapped("header", "", wrapped("p", "eyebrow", eyebrow) + element("h3", "", study.model_label(group.model)));
  if (group.on_cpu) html += element("p", "note", say("answer.cpu_note"));
  std::string uses;
  for (Use use : kUses) uses += use_item(study, group, use, say);
  html += wrapped("ul", "uses", uses);
  html += costs_table(study, group, options, say) + sure_list(study, group, say);
  return wrapped("article", "pick", html);
}

std::string glance_table(const Study& study, const Speaker& say) {
  std::string head = element("th", "", say("answer.model")) + element("th", "", say("answer.card"));
  for (Use use : kUses) head += element("th", "", say("use." + std::string(to_string(use))));
  std::string rows;
  for (const Group& group : study.groups) {
    std::string row = element("th", "", study.model_label(group.model)) +
                      element("td", "",
                              (group.on_cpu ? say("answer.cpu") : study.card_label(group.gpu)) +
                                  (group.engine == "native" ? "" : " · " + group.engine));
    for (Use which : kUses) {
      const UsePick& use = group.for_use(which);
      if (use.pick.winner) {
        const Cell& cell = *group.cell(use.pick.winner->case_id);
        std::string cell_html =
            wrapped("span", "format", format_html(cell.about)) +
            element("small", "ci num", measure_value(study, cell, use.measure, *use.pick.winner->value, say));
        for (const Candidate& tie : use.pick.ties)
          cell_html += element("small", "ci", say("answer.tie") + " " + format_label(group, tie.case_id));
        row += wrapped("td", "", cell_html);
      } else {
        row += element("td", "muted", say(use.any_value ? "answer.no_rank" : "answer.not_measured"));
      }
    }
    rows += wrapped("tr", "", row);
  }
  return element("h3", "", say("answer.glance")) + "<div class=\"scroll\" tabindex=\"0\"><table class=\"glance\">" +
         wrapped("thead", "", wrapped("tr", "", head)) + wrapped("tbody", "", rows) + "</table></div>";
}

std::string unmeasured_pairs(const Study& study, const Speaker& say) {
  const bool plan_begun = std::any_of(study.cells.begin(), study.cells.end(),
                                      [](const Cell& cell) { return cell.in_grid && cell.has_results(); });
  if (!plan_begun) return {};
  std::vector<std::string> pairs;
  for (const Cell& cell : study.cells) {
    if (!cell.in_grid) continue;
    const bool measured = std::any_of(study.groups.begin(), study.groups.end(), [&](const Group& group) {
      return group.model == cell.about.model && group.gpu == cell.about.gpu;
    });
    const std::string name = study.model_label(cell.about.model) + " / " + study.card_label(cell.about.gpu);
    if (!measured && std::find(pairs.begin(), pairs.end(), name) == pairs.end()) pairs.push_back(name);
  }
  std::string list;
  for (const std::string& pair : pairs) list += (list.empty() ? "" : say("list.comma")) + pair;
  return list.empty() ? list : element("p", "muted small", say("answer.unmeasured_pairs", list));
}

std::string across_list(const Study& study, const Speaker& say) {
  const std::vector<AcrossRow> rows = across_engines(study);
  if (rows.empty()) return {};
  std::string items;
  for (const AcrossRow& row : rows) items += element("li", "", across_sentence(study, row, say));
  return element("h3", "", say("across.title")) + wrapped("ul", "small", items);
}

}  // namespace

std::string answer_section(const Study& study, const PageOptions& options) {
  const Speaker say(options.language);
  std::string html = element("h2", "", say("answer.title"));
  if (study.groups.empty()) html += element("p", "lead", say("answer.none"));
  if (study.groups.size() >= kGlanceFrom) html += glance_table(study, say);
  std::string cards;
  for (const Group& group : study.groups) cards += group_card(study, group, options, say);
  html += wrapped("div", study.groups.size() == 1 ? "picks single" : "picks", cards) + across_list(study, say) +
          unmeasured_pairs(study, say);
  return "<section id=\"answer\">" + html + "</section>";
}

}  // namespace qg
