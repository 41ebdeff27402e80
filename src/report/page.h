#pragma once
// The report: one self-contained HTML page, and the same answer and tables as Markdown.
#include <optional>
#include <string>

#include "report/prices.h"
#include "report/study.h"
#include "report/texts.h"

namespace qg {

struct PageOptions {
  Language language = Language::en;
  std::optional<Prices> prices;
  std::string made_at;  // UTC; empty: now
};

std::string html_page(const Study& study, const PageOptions& options);
std::string markdown_page(const Study& study, const PageOptions& options);

// The parts of the HTML page, each one <section>.
std::string answer_section(const Study& study, const PageOptions& options);
std::string grid_section(const Study& study, const PageOptions& options);
std::string charts_section(const Study& study, const PageOptions& options);
std::string method_section(const Study& study, const PageOptions& options);
Json chart_data(const Study& study, const PageOptions& options);  // what page.js draws

// Workloads with a speed that the cells have, in the order in which a reader meets them: decode by batch, then others.
std::vector<std::string> speed_workloads(const std::vector<const Cell*>& cells);
// output_tok_s or prefill_tok_s of that workload if it may be shown as this card's speed; otherwise null. A load at a
// rate has none: its tokens a second are those that were asked for (rate.h).
const Record* shown_speed(const Cell& cell, const std::string& workload);
// How the cell's speed was measured, where those of `cells` were measured by different methods; otherwise empty.
std::string shown_method(const std::vector<const Cell*>& cells, const Cell& cell, const std::string& workload,
                         const Speaker& say);

}  // namespace qg
