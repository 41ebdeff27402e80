#include <fmt/format.h>

#include <memory>

#include "core/file.h"
#include "core/log.h"
#include "report/csv.h"
#include "report/open_study.h"
#include "report/page.h"
#include "report/summary.h"
#include "verb.h"

namespace qg {
namespace {

struct ReportFlags {
  StudyFiles files;
  std::filesystem::path out, markdown, csv, prices, summary;
  std::vector<std::filesystem::path> readmes;
  std::string language = "en";
  bool check = false;
};

// Writes `text`, or with --check only looks whether the file already reads so. Returns whether it does.
bool bring_up_to_date(const std::filesystem::path& file, const std::string& text, bool check) {
  std::error_code code;
  const bool current = std::filesystem::exists(file, code) && read_file(file) == text;
  if (check) {
    if (!current) fmt::print(stderr, "{} is not current; run `make results`\n", file.string());
    return current;
  }
  if (!current) write_file(file, text);
  fmt::print("{}{}\n", file.string(), current ? " (unchanged)" : "");
  return true;
}

void write_page(const std::filesystem::path& file, const std::string& text) {
  write_file(file, text);
  fmt::print("{}\n", file.string());
}

// A journal of a real run cannot be made again.
void check_outputs(const ReportFlags& flags) {
  std::vector<std::filesystem::path> outputs = flags.readmes;
  outputs.insert(outputs.end(), {flags.out, flags.markdown, flags.csv, flags.summary});
  std::error_code code;
  for (const auto& out : outputs)
    for (const auto& file : flags.files.results)
      if (!out.empty() && std::filesystem::equivalent(file, out, code))
        throw Error("this output is one of the journals", out.string(), "give another name");
}

ExitCode report(ReportFlags flags) {
  if (flags.files.results.empty())
    throw Error("no journal was named", "", "for example: quantgrid report results/h100.jsonl -o report.html");
  const bool generated = !flags.summary.empty() || !flags.readmes.empty();
  if (flags.check && !generated) throw Error("--check needs --summary or --readme");
  if (flags.out.empty() && flags.markdown.empty() && flags.csv.empty() && !generated) flags.out = "report.html";

  check_outputs(flags);
  const Study study = open_study(flags.files);
  PageOptions options;
  options.language = *parse_language(flags.language);
  if (!flags.prices.empty()) {
    options.prices = load_prices(flags.prices);
    const std::string unused = unused_prices(*options.prices, study, flags.prices.string());
    if (!unused.empty()) warn("{}", unused);
  }
  if (!flags.out.empty()) write_page(flags.out, html_page(study, options));
  if (!flags.markdown.empty()) write_page(flags.markdown, markdown_page(study, options));
  if (!flags.csv.empty()) write_page(flags.csv, results_as_csv(study.results));

  bool current = true;
  if (!flags.summary.empty()) current &= bring_up_to_date(flags.summary, summary_json(study.results), flags.check);
  for (const auto& readme : flags.readmes)
    current &= bring_up_to_date(readme, with_result_tables(read_file(readme), study, readme.string()), flags.check);
  return current ? ExitCode::done : ExitCode::gate_failed;
}

const RegisterVerb kReport{
    {130, "report", "One self-contained page: the answer, every case, charts and the method",
     "quantgrid report h100.jsonl l4.jsonl -o report.html --lang zh --prices prices.toml", [](CLI::App& command) {
       auto flags = std::make_shared<ReportFlags>();
       command.add_option("journals,--journal", flags->files.results, "journals (.jsonl) and stores (.db)");
       command.add_option("-o,--out", flags->out, "the page (default report.html)");
       command.add_option("--md", flags->markdown, "the same as Markdown");
       command.add_option("--csv", flags->csv, "every measurement, one a line");
       command.add_option("--lang", flags->language, "en or zh")->check(CLI::IsMember({"en", "zh"}));
       command.add_option("--prices", flags->prices,
                          "TOML or JSON: card = currency per hour; shows cost per million tokens. A name that is no "
                          "card is refused; a card without results here is said");
       command.add_option("--grid", flags->files.grid, "grid file (default: the plan of 45 cases)");
       command.add_option("--engine", flags->files.engines, "only results of these engines, as native,vllm")
           ->delimiter(',');
       command
           .add_option("--max-ppl-ratio", flags->files.max_ppl_ratio,
                       "greatest perplexity over the FP16 baseline's (default 1.02)")
           ->check(CLI::Range(1.0, 1000.0));
       command.add_option("--max-kld", flags->files.max_kld_nats, "greatest KL divergence in nats (default 0.05)")
           ->check(CLI::Range(0.0, 1000.0));
       command.add_option("--summary", flags->summary, "write the list of results (results/summary.json)");
       command.add_option("--readme", flags->readmes,
                          "write the tables between <!-- results:… --> markers of these files");
       command.add_flag("--check", flags->check,
                        "change nothing; exit code 3 when --summary or --readme are not current");
       return [flags] { return report(*flags); };
     }}};

}  // namespace
}  // namespace qg
