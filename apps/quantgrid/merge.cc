#include <fmt/format.h>

#include <filesystem>
#include <memory>

#include "core/json_text.h"
#include "record/results.h"
#include "record/store.h"
#include "verb.h"

namespace qg {
namespace {

struct MergeFlags {
  std::vector<std::filesystem::path> files;
  std::filesystem::path out = "all.db";
  bool json = false;
};

void check_out(const MergeFlags& flags) {
  std::error_code code;
  for (const auto& file : flags.files)
    if (std::filesystem::equivalent(file, flags.out, code) && !is_store(flags.out))
      throw Error("the output is one of the journals", flags.out.string(), "give another name with -o");
  // A journal of a real run cannot be made again.
  if (std::filesystem::is_regular_file(flags.out, code) && std::filesystem::file_size(flags.out, code) > 0 &&
      !is_store(flags.out))
    throw Error("the output is there already and is no store", flags.out.string(), "give another name with -o");
}

ExitCode merge(const MergeFlags& flags) {
  check_out(flags);
  const Results results = load_results(flags.files);
  write_store(flags.out, results);
  int64_t rows = 0, replaced = 0, disagreeing = 0;
  for (const StoredAttempt& stored : results.attempts) {
    rows += stored.attempt.done.rows;
    replaced += !stored.chosen;
    disagreeing += stored.disagrees;
  }
  if (flags.json) {
    const Json summary{{"out", flags.out.string()}, {"runs", results.runs.size()}, {"cases", results.attempts.size()},
                       {"measurements", rows},      {"replaced", replaced},        {"disagreeing", disagreeing}};
    fmt::print("{}\n", json_text(summary, 2));
    return ExitCode::done;
  }
  fmt::print("{}: {} runs, {} cases, {} measurements\n", flags.out.string(), results.runs.size(),
             results.attempts.size(), rows);
  if (replaced > 0) fmt::print("{} attempts are kept but replaced by a newer valid one\n", replaced);
  for (const StoredAttempt& stored : results.attempts) {
    const Record& subject = stored.attempt.done.subject;
    if (stored.disagrees)
      fmt::print("disagrees with a newer attempt: {} {} of {}\n", subject.case_id, subject.workload, subject.ended_at);
  }
  return ExitCode::done;
}

const RegisterVerb kMerge{
    {110, "merge", "Join journals of several machines into one store",
     "quantgrid merge h100.jsonl l4.jsonl a10.jsonl -o all.db", [](CLI::App& command) {
       auto flags = std::make_shared<MergeFlags>();
       command.add_option("journals", flags->files, "journals (.jsonl) and stores (.db)")->required();
       command.add_option("-o,--out", flags->out, "the store to write (default all.db)");
       command.add_flag("--json", flags->json, "print the counts as JSON");
       return [flags] { return merge(*flags); };
     }}};

}  // namespace
}  // namespace qg
