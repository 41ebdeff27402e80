#include <fmt/format.h>

#include <memory>

#include "core/json_text.h"
#include "report/across.h"
#include "report/explain.h"
#include "report/open_study.h"
#include "verb.h"

namespace qg {
namespace {

struct PickFlags {
  StudyFiles files;
  std::string language = "en";
  bool json = false, across = false;
};

void print_picks(const Study& study, const Speaker& say) {
  for (const Group& group : study.groups) {
    fmt::print("{}\n", group_title(study, group, say));
    for (Use use : kUses) {
      fmt::print("  {}\n", pick_sentence(study, group, use, say));
      if (const std::string out = excluded_sentence(study, group, use, say); !out.empty()) fmt::print("    {}\n", out);
    }
  }
}

ExitCode pick_formats(const PickFlags& flags) {
  if (flags.files.results.empty())
    throw Error("no journal was named", "", "for example: quantgrid pick results/h100.jsonl");
  const Study study = open_study(flags.files);
  if (flags.json) {
    fmt::print("{}\n", json_text(flags.across ? across_engines_as_json(study) : picks_as_json(study), 2));
    return ExitCode::done;
  }
  const Speaker say(*parse_language(flags.language));
  if (study.groups.empty()) fmt::print("{}\n", say("answer.nothing_yet"));
  if (!flags.across) print_picks(study, say);
  if (const auto across = across_engines(study); !across.empty()) {
    fmt::print("{}\n", say("across.title"));
    for (const AcrossRow& row : across) fmt::print("  {}\n", across_sentence(study, row, say));
  } else if (flags.across && !study.groups.empty()) {
    fmt::print("{}\n", say("across.nothing"));
  }
  return ExitCode::done;
}

const RegisterVerb kPick{
    {120, "pick", "The winner per (model, card) and use, and why", "quantgrid pick h100.jsonl l4.jsonl --lang zh",
     [](CLI::App& command) {
       auto flags = std::make_shared<PickFlags>();
       command.add_option("journals,--journal", flags->files.results, "journals (.jsonl) and stores (.db)");
       command.add_option("--grid", flags->files.grid, "grid file (default: the plan of 45 cases)");
       command.add_option("--engine", flags->files.engines, "only results of these engines, as native,vllm")
           ->delimiter(',');
       command
           .add_option("--max-ppl-ratio", flags->files.max_ppl_ratio,
                       "greatest perplexity over the FP16 baseline's (default 1.02)")
           ->check(CLI::Range(1.0, 1000.0));
       command.add_option("--max-kld", flags->files.max_kld_nats, "greatest KL divergence in nats (default 0.05)")
           ->check(CLI::Range(0.0, 1000.0));
       command.add_option("--lang", flags->language, "en or zh")->check(CLI::IsMember({"en", "zh"}));
       command.add_flag("--across", flags->across, "only engines side by side: the same case on each");
       command.add_flag("--json", flags->json, "print the picks as JSON");
       return [flags] { return pick_formats(*flags); };
     }}};

}  // namespace
}  // namespace qg
