#pragma once
// Served loads: how long requests waited that arrived at a rate, in a table of its own. Their tokens a second are the
// load's, not the engine's, so that they stand beside no speed and decide no pick.
#include <string>
#include <vector>

#include "report/study.h"
#include "report/texts.h"

namespace qg {

// One load on one cell, measured on the cell's own card.
struct RateRow {
  const Cell* cell = nullptr;
  std::string workload;
  const Record* about = nullptr;  // any of its rows: lengths, rate, limits
};

std::vector<RateRow> rate_rows(const Study& study);  // in the order of the cells, then by rate

// The load, requests and good requests a second, percentiles of TTFT and TPOT, as text; as many as there are heads.
std::vector<std::string> rate_heads(const Speaker& say);
std::vector<std::string> rate_figures_of(const RateRow& row, const Speaker& say);

// Heading, note and table; empty when there are no such rows.
std::string rate_html(const Study& study, const Speaker& say);

}  // namespace qg
