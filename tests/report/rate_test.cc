// Served loads in the report: a table of their own, never a speed, never another card's.
#include "report/rate.h"

#include "report/assets.h"
#include "report/page.h"
#include "report/summary.h"
#include "tests/record/sample.h"
#include "tests/report/sample_results.h"

namespace qg {
namespace {

constexpr const char* kWorkload = "rate/8";

void add_rate(JournalWriter& journal, const Case& c, const std::string& measured_on, double ttft, bool limits,
              bool synthetic = false) {
  Record r = sample::about_case(c, measured_on, kWorkload);
  r.synthetic = synthetic;
  r.isl = 1024;
  r.osl = 128;
  r.request_rate = 8;
  if (limits) r.ttft_limit_ms = 500, r.tpot_limit_ms = 30;
  std::vector<Record> rows{measured(r, "output_tok_s", 54321), measured(r, "requests_s", 7.96),
                           measured(r, "ttft_ms_p50", ttft),   measured(r, "ttft_ms_p90", 2 * ttft),
                           measured(r, "tpot_ms_p50", 6.21),   measured(r, "tpot_ms_p90", 7.05),
                           measured(r, "tpot_ms_p99", 9.31)};
  if (limits) {
    rows.push_back(measured(r, "goodput_requests_s", 7.52));
    rows.push_back(measured(r, "goodput_share", 0.945));
  }
  CaseDone done{r, 0, 61};
  done.subject.ended_at = "2026-11-26T11:00:00Z";
  journal.append_case(done, rows);
}

Study study_with_rates() {
  sample::Folder folder;
  Grid grid = parse_grid(kDefaultGrid, "trt-llm-45.toml");
  {
    JournalWriter journal(folder / "h100.jsonl",
                          sample::box("0197-h100", "NVIDIA H100 80GB HBM3", "2026-11-26T09:30:00Z"));
    add_rate(journal, *grid.find_case(16), "h100", 41.25, true);
    add_rate(journal, *grid.find_case(15), "h100", 43, false, true);
    add_rate(journal, *grid.find_case(13), "h100", 999, true);  // an A10's case
    sample::add_speed(journal, *grid.find_case(16), "h100", "decode/b1", 246, "w8a8_fp8");
    Record skipped = sample::about_case(*grid.find_case(16), "h100", "rate/9");
    skipped.request_rate = 9;
    skipped.status = "skipped_unsupported";
    skipped.error_msg = "not measured by its own benchmark";
    journal.append_case(CaseDone{skipped, 0, 0}, {});
  }
  return make_study(load_results({folder / "h100.jsonl"}), grid, grid.gates);
}

PageOptions options_in(Language language) {
  PageOptions options;
  options.language = language;
  options.made_at = "2026-11-26T12:00:00Z";
  return options;
}

TEST(RateReport, RowsAreTheOwnCards) {
  const Study study = study_with_rates();
  const std::vector<RateRow> rows = rate_rows(study);
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].cell->about.number, 15);
  EXPECT_EQ(rows[1].cell->about.number, 16);
  const Speaker say(Language::en);
  EXPECT_EQ(rate_figures_of(rows[1], say), (std::vector<std::string>{"rate/8: 1024 in, 128 out, 8 requests/s", "7.96",
                                                                     "7.52 (94.5 %, TTFT ≤ 500 ms, TPOT ≤ 30 ms)",
                                                                     "41.2 / 82.5 / –", "6.21 / 7.05 / 9.31"}));
  EXPECT_EQ(rate_figures_of(rows[0], say)[0], "rate/8: 1024 in, 128 out, 8 requests/s °");
  EXPECT_EQ(rate_figures_of(rows[0], say)[2], "–") << "without limits there is no goodput";
  EXPECT_EQ(rate_heads(say).size(), rate_figures_of(rows[0], say).size());
}

TEST(RateReport, PagesHaveTheTable) {
  const Study study = study_with_rates();
  for (Language language : {Language::en, Language::zh}) {
    const PageOptions options = options_in(language);
    const std::string title(text_of(language, "rate.title"));
    for (const std::string& page : {html_page(study, options), markdown_page(study, options)}) {
      EXPECT_NE(page.find(title), std::string::npos);
      EXPECT_NE(page.find("41.2 / 82.5 / –"), std::string::npos);
      EXPECT_EQ(page.find("999 /"), std::string::npos) << "another card's";
    }
  }
  const Study without = make_study({}, parse_grid(kDefaultGrid, "g"), {});
  EXPECT_EQ(rate_html(without, Speaker(Language::en)), "");
  EXPECT_EQ(markdown_page(without, options_in(Language::en)).find("Served load"), std::string::npos);
}

// Tokens a second of a load that asks for so many a second are no speed of the card.
TEST(RateReport, IsNoSpeedAndDecidesNoPick) {
  const Study study = study_with_rates();
  const Cell* cell = rate_rows(study)[1].cell;
  EXPECT_EQ(shown_speed(*cell, kWorkload), nullptr);
  EXPECT_EQ(speed_workloads({cell}), (std::vector<std::string>{"decode/b1"}));
  EXPECT_EQ(html_page(study, options_in(Language::en)).find("54,321"), std::string::npos);
  for (const Group& group : study.groups)
    for (const UsePick& use : group.picks) EXPECT_NE(use.measure.workload, kWorkload);
  EXPECT_EQ(cell->state, CellState::measured);
  EXPECT_EQ(cell->problem, "") << "a load that the engine has no means for is no failure";
}

TEST(RateReport, FillsATableOfAPage) {
  const Study study = study_with_rates();
  const std::string after = with_result_tables(
      "<!-- results:rate llama-3.1-8b h100 -->\n<!-- /results -->\n"
      "<!-- results:speed llama-3.1-8b h100 -->\n<!-- /results -->\n",
      study, "README.md");
  EXPECT_NE(after.find("| FP8 | FP8 | native | rate/8: 1024 in, 128 out, 8 requests/s | 7.96 | 7.52 (94.5 %, "),
            std::string::npos)
      << after;
  EXPECT_NE(after.find("| random weights | 2026-11-26 |"), std::string::npos);
  EXPECT_EQ(after.find("54,321"), std::string::npos);
}

}  // namespace
}  // namespace qg
