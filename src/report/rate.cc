#include "report/rate.h"

#include <algorithm>
#include <tuple>

#include "grid/formats.h"
#include "report/html.h"
#include "report/notes.h"

namespace qg {
namespace {

// "41.2 / 55.0 / 71.3": 50th, 90th and 99th percentile; those that were not taken are dashes.
std::string percentiles(const RateRow& row, const std::string& metric) {
  std::string text;
  for (const char* part : {"_p50", "_p90", "_p99"}) {
    const Record* found = row.cell->row(row.workload, metric + part);
    text += (text.empty() ? "" : " / ") + (found ? figure(*found->value) : "–");
  }
  return text;
}

// What a load states, as it was stated: no digits that nobody wrote.
std::string plain(double value) {
  return fmt::format("{:g}", value);
}

std::string good_text(const RateRow& row) {
  const Record* good = row.cell->row(row.workload, "goodput_requests_s");
  const Record* share = row.cell->row(row.workload, "goodput_share");
  if (!good || !share) return "–";
  std::string limits;
  if (row.about->ttft_limit_ms) limits += ", TTFT ≤ " + plain(*row.about->ttft_limit_ms) + " ms";
  if (row.about->tpot_limit_ms) limits += ", TPOT ≤ " + plain(*row.about->tpot_limit_ms) + " ms";
  return figure(*good->value) + " (" + percent(*share->value) + limits + ")";
}

std::string load_text(const RateRow& row, const Speaker& say) {
  const std::string marks = marks_of(*row.cell, *row.about);
  return say("rate.load_text", row.workload, row.about->isl.value_or(0), row.about->osl.value_or(0),
             plain(*row.about->request_rate)) +
         (marks.empty() ? "" : " " + marks);
}

}  // namespace

std::vector<RateRow> rate_rows(const Study& study) {
  std::vector<RateRow> rows;
  for (const Cell& cell : study.cells) {
    const size_t begin = rows.size();
    for (const auto& [key, record] : cell.rows) {
      if (!record->request_rate || record->cross_target || key.second != "ttft_ms_p50") continue;
      rows.push_back({&cell, key.first, record});
    }
    std::sort(rows.begin() + static_cast<std::ptrdiff_t>(begin), rows.end(), [](const RateRow& a, const RateRow& b) {
      return std::tie(*a.about->request_rate, a.workload) < std::tie(*b.about->request_rate, b.workload);
    });
  }
  return rows;
}

std::vector<std::string> rate_heads(const Speaker& say) {
  return {say("rate.load"), say("rate.finished"), say("rate.good"), say("rate.ttft"), say("rate.tpot")};
}

std::vector<std::string> rate_figures_of(const RateRow& row, const Speaker& say) {
  const Record* finished = row.cell->row(row.workload, "requests_s");
  return {load_text(row, say), finished ? figure(*finished->value) : "–", good_text(row), percentiles(row, "ttft_ms"),
          percentiles(row, "tpot_ms")};
}

std::string rate_html(const Study& study, const Speaker& say) {
  const std::vector<RateRow> rows = rate_rows(study);
  if (rows.empty()) return {};
  std::string head;
  for (const char* key : {"answer.model", "grid.card", "grid.weights", "grid.kv", "grid.engine"})
    head += element("th", "", say(key));
  const std::vector<std::string> heads = rate_heads(say);
  for (size_t i = 0; i < heads.size(); ++i) head += element("th", i == 0 ? "" : "num", heads[i]);
  std::string body;
  for (const RateRow& row : rows) {
    const Case& about = row.cell->about;
    std::string html = element("th", "", study.model_label(about.model)) +
                       element("td", "", study.short_card_label(about.gpu)) +
                       element("td", "", weight_format_spec(about.weights).label) +
                       element("td", "", kv_format_spec(about.kv).label) + element("td", "", row.cell->engine);
    const std::vector<std::string> figures = rate_figures_of(row, say);
    for (size_t i = 0; i < figures.size(); ++i) html += element("td", i == 0 ? "" : "num", figures[i]);
    body += wrapped("tr", "", html);
  }
  return element("h3", "", say("rate.title")) + element("p", "muted small", say("rate.note")) +
         "<div class=\"scroll\" tabindex=\"0\"><table class=\"cells rate\">" +
         wrapped("thead", "", wrapped("tr", "", head)) + wrapped("tbody", "", body) + "</table></div>";
}

}  // namespace qg
