#include "report/page.h"

#include <regex>

#include "core/error.h"
#include "report/assets.h"
#include "report/csv.h"
#include "report/html.h"
#include "report/summary.h"
#include "tests/record/sample.h"
#include "tests/report/sample_results.h"

namespace qg {
namespace {

Study sample_study() {
  sample::Folder folder;
  const Grid grid = parse_grid(kDefaultGrid, "trt-llm-45.toml");
  sample::write_demo(folder / "demo.jsonl");
  sample::write_h100(folder / "h100.jsonl", grid);
  sample::write_l4(folder / "l4.jsonl", grid);
  sample::write_synthetic(folder / "a100.jsonl", grid);
  return make_study(
      load_results({folder / "demo.jsonl", folder / "h100.jsonl", folder / "l4.jsonl", folder / "a100.jsonl"}), grid,
      grid.gates);
}

PageOptions options_in(Language language) {
  PageOptions options;
  options.language = language;
  options.made_at = "2026-11-22T12:00:00Z";
  return options;
}

// The page without what stands in <style> and <script>.
std::string markup_of(const std::string& page) {
  static const std::regex kOpaque(R"(<(style|script)[^>]*>)");
  std::string out;
  size_t at = 0;
  std::smatch match;
  for (std::string rest = page; std::regex_search(rest, match, kOpaque); rest = page.substr(at)) {
    const size_t open = at + static_cast<size_t>(match.position());
    const size_t close = page.find("</" + match[1].str() + ">", open);
    if (close == std::string::npos) return out;
    out += page.substr(at, open - at);
    at = close + match[1].length() + 3;
  }
  return out + page.substr(at);
}

// The first tag that does not nest; empty when all do.
std::string first_unbalanced(const std::string& markup) {
  static const std::regex kTag(R"(<(/?)([a-z][a-z0-9]*)[^>]*>)");
  std::vector<std::string> open;
  for (std::sregex_iterator it(markup.begin(), markup.end(), kTag), end; it != end; ++it) {
    const std::string name = (*it)[2];
    if (name == "meta") continue;
    if ((*it)[1].length() == 0) {
      open.push_back(name);
    } else {
      if (open.empty() || open.back() != name) return "</" + name + "> at " + std::to_string(it->position());
      open.pop_back();
    }
  }
  return open.empty() ? "" : "<" + open.back() + ">";
}

TEST(Page, IsWholeAndNeedsNoNetwork) {
  for (Language language : {Language::en, Language::zh}) {
    const std::string page = html_page(sample_study(), options_in(language));
    const std::string markup = markup_of(page);
    EXPECT_EQ(first_unbalanced(markup), "");
    static const std::regex kFetched(R"rx((src|href)="(?!#)|url\(|@import)rx");
    EXPECT_FALSE(std::regex_search(markup, kFetched));
    EXPECT_EQ(std::string(kReportCss).find("url("), std::string::npos);
    EXPECT_NE(page.find("Chart.js v"), std::string::npos) << "the library is in the page";
    EXPECT_NE(page.find("default-src 'none'"), std::string::npos);
    EXPECT_NE(page.find("prefers-color-scheme: dark"), std::string::npos);
    EXPECT_NE(page.find("@media print"), std::string::npos);
  }
}

TEST(Page, TellsTheStatesApart) {
  const std::string markup = markup_of(html_page(sample_study(), options_in(Language::en)));
  for (const char* sign : {"●", "◆", "◐", "◇", "✕", "⊘", "○"}) EXPECT_NE(markup.find(sign), std::string::npos) << sign;
  for (int number = 1; number <= 45; ++number)
    EXPECT_NE(markup.find("<td class=\"num muted\">" + std::to_string(number) + "</td>"), std::string::npos) << number;
  EXPECT_NE(markup.find("accuracy from H100"), std::string::npos);
  EXPECT_NE(markup.find("175°"), std::string::npos) << "random weights are marked";
  EXPECT_NE(markup.find("weights and workspace need 23.4 GB"), std::string::npos);
}

// 54,321 tok/s (times the model's scale) is an H100's speed under --target a10.
TEST(Page, NeverShowsAnotherCardsSpeed) {
  const Study study = sample_study();
  const std::string page = html_page(study, options_in(Language::en));
  const std::string text = markup_of(page) + chart_data(study, options_in(Language::en)).dump() +
                           markdown_page(study, options_in(Language::en)) +
                           with_result_tables("<!-- results:speed --><!-- /results -->", study, "t");
  for (const char* speed : {"54,321", "54321", "130,370", "130370", "58,667", "58666"})
    EXPECT_EQ(text.find(speed), std::string::npos) << speed;
}

TEST(Page, TheGreatestBatchIsComparedWithTheBaselineToo) {
  const Study study = sample_study();
  const std::string page = html_page(study, options_in(Language::en));
  int compared = 0;
  for (const Group& group : study.groups) {
    if (group.gpu != "h100" || !group.baseline) continue;
    const UsePick& use = group.for_use(Use::memory);
    ASSERT_TRUE(use.pick.winner);
    const double ratio = *use.pick.winner->value / *value_of(study, *group.baseline, use.measure);
    EXPECT_NE(page.find(">" + figure(ratio) + "× FP16<"), std::string::npos) << group.model << " " << ratio;
    ++compared;
  }
  EXPECT_EQ(compared, 3);
}

TEST(Page, CpuIsNotRankedWithCards) {
  const Study study = sample_study();
  const Json data = chart_data(study, options_in(Language::en));
  ASSERT_EQ(data["figures"].size(), 4u);  // three models on cards, one on the CPU
  for (const Json& figure : data["figures"]) {
    const bool cpu = figure["title"].get<std::string>().find("CPU") != std::string::npos;
    for (const Json& bar : figure["bars"])
      EXPECT_EQ(bar["label"].get<std::string>().find("·") == std::string::npos, cpu);
  }
  EXPECT_NE(html_page(study, options_in(Language::en)).find("not how fast a graphics card would be"),
            std::string::npos);
}

TEST(Page, EscapesWhatJournalsSay) {
  sample::Folder folder;
  const std::string evil = "</script><script>alert(1)</script><img src=x onerror='x'>\"&";
  {
    Environment run = sample::environment("run-1");
    run.machine = run.cpu = run.os = run.build = run.commit = evil;
    JournalWriter journal(folder / "j.jsonl", run);
    Record about = sample::common("accuracy");
    about.model = about.target = about.measured_on = about.engine = about.compute_path = evil;
    about.compute_path = "w8a8_fp8";
    about.dataset = about.protocol = evil;
    Record ppl = measured(about, "ppl", 10), base = measured(about, "base_ppl", 10),
           kld = measured(about, "kld_mean", 0);
    journal.append_case(sample::done(about), {ppl, base, kld});
    Record speed = about;
    speed.workload = evil;
    speed.case_key = "1";
    journal.append_case(sample::done(speed), {measured(speed, "output_tok_s", 3)});
    CaseDone failed = sample::done(sample::common("x"));
    failed.subject.status = "failed";
    failed.subject.error_msg = evil;
    journal.append_case(failed, {});
  }
  const Study study = make_study(load_results({folder / "j.jsonl"}), std::nullopt, {});
  const std::string page = html_page(study, options_in(Language::en));
  EXPECT_EQ(page.find("<script>alert"), std::string::npos);
  EXPECT_EQ(page.find("<img"), std::string::npos);
  EXPECT_NE(page.find("&lt;/script&gt;"), std::string::npos);
  EXPECT_EQ(first_unbalanced(markup_of(page)), "");
  EXPECT_EQ(json_for_script(Json(evil)).find('<'), std::string::npos);
  EXPECT_EQ(Json::parse(json_for_script(Json(evil))).get<std::string>(), evil);
  EXPECT_EQ(markdown_page(study, options_in(Language::en)).find(" <script"), std::string::npos);
}

TEST(Page, ShowsCosts) {
  PageOptions options = options_in(Language::en);
  options.prices = parse_prices("h100 = 3.6", "p");
  const std::string page = html_page(sample_study(), options);
  // 3.6 an hour at 15,100 tok/s: 0.001 / 15100 * 1e6.
  EXPECT_NE(page.find("<td class=\"num\">0.0662</td>"), std::string::npos);
}

TEST(Page, EmptyResults) {
  const Study study = make_study({}, parse_grid(kDefaultGrid, "g"), {});
  EXPECT_NE(html_page(study, options_in(Language::en)).find("No case has results yet"), std::string::npos);
  EXPECT_EQ(first_unbalanced(markup_of(html_page(study, options_in(Language::zh)))), "");
}

TEST(Csv, HasEveryMeasurement) {
  const Study study = sample_study();
  const std::string csv = results_as_csv(study.results);
  size_t rows = 0;
  for (const StoredAttempt& stored : study.results.attempts) rows += stored.attempt.rows.size();
  EXPECT_EQ(static_cast<size_t>(std::count(csv.begin(), csv.end(), '\n')), rows + 1);
  EXPECT_NE(csv.find("\"8 windows of 1,024 tokens, stride 1,024, no BOS, 8,184 scored tokens\""), std::string::npos);
}

TEST(Summary, ListsTheChosenResults) {
  const Study study = sample_study();
  const Json list = Json::parse(summary_json(study.results));
  ASSERT_FALSE(list.empty());
  for (const char* key : {"model", "weights", "kv", "target", "measured_on", "cross_target", "workload", "metric",
                          "value", "unit", "commit", "date"})
    EXPECT_TRUE(list[0].contains(key)) << key;
  int found = 0;
  for (const Json& row : list)
    found += row["model"] == "smollm2-135m" && row["weights"] == "fp16" && row["kv"] == "fp16" &&
             row["metric"] == "ppl" && row["value"] == 41.12 && row["date"] == "2026-11-21";
  EXPECT_EQ(found, 1);
}

TEST(Summary, FillsTheMarkersOfAPage) {
  const Study study = sample_study();
  const std::string before =
      "# A\n<!-- results:accuracy smollm2-135m -->\nold\n<!-- /results -->\ntext\n"
      "<!-- results:speed llama-3.1-8b h100 -->\n<!-- /results -->\n<!-- results:memory -->\n<!-- /results -->\n";
  const std::string after = with_result_tables(before, study, "README.md");
  EXPECT_EQ(after.find("old"), std::string::npos);
  EXPECT_NE(after.find("\ntext\n"), std::string::npos);
  EXPECT_NE(after.find("| SmolLM2-135M | CPU | INT8 SmoothQuant | FP16 |"), std::string::npos);
  EXPECT_NE(after.find("| decode/b1 | 243 [241, 245] | w8a8_fp8 | 74 % | 2026-11-21 |"), std::string::npos) << after;
  EXPECT_NE(after.find("driver 580.95.05"), std::string::npos);
  EXPECT_EQ(with_result_tables(after, study, "README.md"), after) << "made twice, it is the same";
  EXPECT_THROW(with_result_tables("<!-- results:speed -->\n", study, "R"), Error);
  EXPECT_THROW(with_result_tables("<!-- results:colours -->\n<!-- /results -->", study, "R"), Error);
  EXPECT_THROW(with_result_tables("<!-- results:speed -->\n<!-- results:speed --><!-- /results -->", study, "R"),
               Error);
}

}  // namespace
}  // namespace qg
