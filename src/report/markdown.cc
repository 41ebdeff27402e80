#include <algorithm>

#include "core/utc.h"
#include "core/version.h"
#include "grid/formats.h"
#include "report/across.h"
#include "report/explain.h"
#include "report/notes.h"
#include "report/page.h"
#include "report/rate.h"

namespace qg {
namespace {

// Text from journals must not change the table that it stands in.
std::string markdown_text(std::string_view text) {
  std::string out;
  for (char c : text) {
    if (c == '|' || c == '<' || c == '`' || c == '\\' || c == '[') out += '\\';
    out += c == '\n' ? ' ' : c;
  }
  return out;
}

std::string value_text(const Cell& cell, const Record* row) {
  if (!row) return "–";
  std::string text = figure(*row->value) + marks_of(cell, *row);
  if (row->ci_lo && row->ci_hi) text += " (" + figure(*row->ci_lo) + "–" + figure(*row->ci_hi) + ")";
  return text;
}

std::string mark_lines(const Study& study, const Speaker& say) {
  std::string text;
  for (const std::string& note : mark_notes(study, say)) text += "\n" + note + "\n";
  return text;
}

std::string failure_list(const Study& study, const Speaker& say) {
  std::string text;
  for (const FailureNote& note : failure_notes(study, say))
    text += "- " + markdown_text(note.case_id + " · " + note.text) + "\n";
  return text.empty() ? text : "\n### " + say("method.failures") + "\n\n" + text;
}

std::string cells_table(const Study& study, const std::vector<const Cell*>& cells, const Speaker& say) {
  std::vector<std::string> workloads = speed_workloads(cells);
  std::string head = "| " + say("grid.number") + " | " + say("answer.model") + " | " + say("grid.card") + " | " +
                     say("grid.weights") + " | " + say("grid.kv") + " | " + say("grid.engine") + " | " +
                     say("grid.state");
  std::string line = "|--:|---|---|---|---|---|---";
  for (const std::string& workload : workloads) head += " | " + workload + " " + say("grid.tok_s"), line += "|--:";
  head += " | " + say("grid.ppl") + " | " + say("grid.kld") + " | " + say("grid.top1") + " |\n";
  std::string text = head + line + "|--:|--:|--:|\n";
  for (const Cell* cell : cells) {
    std::string on;
    for (const auto& [key, row] : cell->rows)
      if (row->cross_target) on = study.card_label(row->measured_on);
    text += "| " + (cell->about.number > 0 ? std::to_string(cell->about.number) : "–") + " | " +
            markdown_text(study.model_label(cell->about.model)) + " | " +
            markdown_text(study.card_label(cell->about.gpu)) + " | " +
            std::string(weight_format_spec(cell->about.weights).label) + " | " +
            std::string(kv_format_spec(cell->about.kv).label) + " | " + markdown_text(cell->engine) + " | " +
            markdown_text(say("state." + std::string(to_string(cell->state)), on));
    for (const std::string& workload : workloads) {
      text += " | " + value_text(*cell, shown_speed(*cell, workload));
      if (const std::string method = shown_method(cells, *cell, workload, say); !method.empty()) text += ", " + method;
    }
    for (const char* metric : {"ppl", "kld_mean", "top1"}) text += " | " + value_text(*cell, cell->accuracy(metric));
    text += " |\n";
  }
  return text;
}

std::string rate_table(const Study& study, const Speaker& say) {
  const std::vector<RateRow> rows = rate_rows(study);
  if (rows.empty()) return {};
  std::string text = "\n### " + say("rate.title") + "\n\n" + say("rate.note") + "\n\n| " + say("answer.model") + " | " +
                     say("grid.card") + " | " + say("grid.weights") + " | " + say("grid.kv") + " | " +
                     say("grid.engine") + " |";
  std::string line = "|---|---|---|---|---|";
  for (const std::string& head : rate_heads(say)) text += " " + head + " |", line += line.size() < 22 ? "---|" : "--:|";
  text += "\n" + line + "\n";
  for (const RateRow& row : rows) {
    const Case& about = row.cell->about;
    text += "| " + markdown_text(study.model_label(about.model)) + " | " + markdown_text(study.card_label(about.gpu)) +
            " | " + std::string(weight_format_spec(about.weights).label) + " | " +
            std::string(kv_format_spec(about.kv).label) + " | " + markdown_text(row.cell->engine) + " |";
    for (const std::string& value : rate_figures_of(row, say)) text += " " + markdown_text(value) + " |";
    text += "\n";
  }
  return text;
}

}  // namespace

std::string markdown_page(const Study& study, const PageOptions& options) {
  const Speaker say(options.language);
  std::string text = "# " + say("page.title") + "\n\n" + say("page.question") + "\n\n## " + say("answer.title") + "\n";
  if (study.groups.empty()) text += "\n" + say("answer.none") + "\n";
  for (const Group& group : study.groups) {
    text += "\n### " + markdown_text(group_title(study, group, say)) + "\n\n";
    for (Use use : kUses) {
      text += "- " + markdown_text(pick_sentence(study, group, use, say)) + "\n";
      if (const std::string sure = confidence_sentence(group, use, say); !sure.empty())
        text += "  " + markdown_text(sure) + "\n";
      if (const std::string out = excluded_sentence(study, group, use, say); !out.empty())
        text += "  " + markdown_text(out) + "\n";
    }
  }
  if (const auto across = across_engines(study); !across.empty()) {
    text += "\n### " + say("across.title") + "\n\n";
    for (const AcrossRow& row : across) text += "- " + markdown_text(across_sentence(study, row, say)) + "\n";
  }
  std::vector<const Cell*> planned, others;
  for (const Cell& cell : study.cells) (cell.in_grid ? planned : others).push_back(&cell);
  text += "\n## " + say("grid.title") + "\n";
  if (!others.empty()) text += "\n### " + say("grid.others") + "\n\n" + cells_table(study, others, say);
  if (!planned.empty())
    text += "\n### " + markdown_text(say("grid.plan", study.grid->title)) + "\n\n" + cells_table(study, planned, say);
  text += rate_table(study, say) + mark_lines(study, say);
  text += "\n## " + say("method.title") + "\n\n" +
          say("method.rule_admissible", fmt::format("{:g}", study.gates.max_ppl_ratio),
              fmt::format("{:g}", study.gates.max_kld_nats)) +
          " " + say("method.rule_fastest", percent(study.gates.tie_share, 0)) + " " + say("method.rule_synthetic") +
          "\n" + failure_list(study, say);
  std::string time = options.made_at.empty() ? utc_now() : options.made_at;
  return text + "\n" + say("page.made", time.substr(0, 10), version() + " (" + build_commit() + ")") + "\n";
}

}  // namespace qg
