#include "fleet/slurm.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>

#include "core/error.h"
#include "grid/commands.h"

namespace qg {
namespace {

// Words of #SBATCH lines: Slurm splits them at blanks and puts job numbers in place of %.
const std::string& plain(const std::string& word, const char* what) {
  constexpr std::string_view kSigns = "_./+:=@,-*[]&|()";
  const bool fine = !word.empty() && std::all_of(word.begin(), word.end(), [&](unsigned char c) {
    return (c < 0x80 && std::isalnum(c)) || kSigns.find(static_cast<char>(c)) != std::string_view::npos;
  });
  if (!fine)
    throw Error(fmt::format("{} \"{}\" holds signs that Slurm reads otherwise", what, word), "",
                "use letters, digits and _ . / + : = @ , - without blanks");
  return word;
}

class Script {
 public:
  void comment(std::string_view text) { text_ += fmt::format("# {}\n", text); }
  void option(const std::string& words) { text_ += fmt::format("#SBATCH {}\n", words); }
  void option(const char* name, const std::string& value, const char* what) {
    if (!value.empty()) option(fmt::format("{}={}", name, plain(value, what)));
  }
  void lines(std::string_view text) { text_ += text; }
  std::string text() && { return std::move(text_); }

 private:
  std::string text_ = "#!/usr/bin/env bash\n";
};

// `log`: the file's name, with Slurm's own % in it.
void common_options(Script& script, const SlurmOptions& options, const std::string& name, const std::string& log) {
  script.option("--job-name", "quantgrid-" + name, "the job's name");
  script.option("--nodes=1");
  script.option("--ntasks=1");
  script.option("--partition", options.partition, "partition");
  script.option("--account", options.account, "account");
  script.option(fmt::format("--output={}/logs/{}", plain(options.out.string(), "the output folder"), log));
  script.option("--open-mode=append");
}

std::string gres_of(const std::string& card, const SlurmOptions& options) {
  const auto named = options.gres.find(card);
  if (named != options.gres.end()) return named->second == "none" ? "" : named->second;
  return options.on_processor || card == "cpu" ? "" : fmt::format("gpu:{}:1", card);
}

std::string joined(const std::vector<std::string>& words) {
  std::string text;
  for (const std::string& word : words) text += " " + (word.starts_with("--") ? word : shell_quoted(word));
  return text;
}

// Slurm asks the script alone before the time is up (USR1). The program then stops at a place where nothing is lost and
// says so by 75; the task goes back into the queue, and the same command goes on with the same journal. TERM (scancel,
// preemption) comes from Slurm to the program itself as well: the script only waits for it.
constexpr std::string_view kRun = R"(
time_up=0
child=
signalled=1
on_time_up() {
  time_up=1
  signalled=1
  [[ -z $child ]] || kill -TERM "$child" 2>/dev/null
}
trap on_time_up USR1
trap 'signalled=1' TERM

"${command[@]}" &
child=$!
while ((signalled)); do  # a signal ends the wait, not the program
  signalled=0
  wait "$child"
  status=$?
done
# bash 5.2 loses the status of a program that ends just as a signal ends the wait, and says -1. Where the time was up the
# task then goes on: one that was done ends at once.
((status >= 0 || !time_up)) || status=75
echo "task $task ended with $status"
if ((status == 75 && time_up && ${SLURM_RESTART_COUNT:-0} < most_restarts)); then
  echo "task $task goes back into the queue and goes on from its journal"
  scontrol requeue "${SLURM_ARRAY_JOB_ID}_$task"
fi
exit "$status"
)";

}  // namespace

std::vector<SlurmArray> slurm_arrays(const std::vector<Case>& cases) {
  std::vector<SlurmArray> arrays;
  for (const Case& c : cases) {
    if (c.number < 1) throw Error("a case without a number cannot be submitted", c.id(), "add it to the grid file");
    auto array = std::find_if(arrays.begin(), arrays.end(), [&](const SlurmArray& a) { return a.card == c.gpu; });
    if (array == arrays.end()) array = arrays.insert(arrays.end(), SlurmArray{c.gpu, {}});
    auto task = std::find_if(array->tasks.begin(), array->tasks.end(),
                             [&](const SlurmArray::Task& t) { return t.model == c.model; });
    if (task == array->tasks.end()) task = array->tasks.insert(array->tasks.end(), SlurmArray::Task{c.model, {}});
    task->numbers.push_back(c.number);
  }
  return arrays;
}

std::string array_script(const SlurmArray& array, const SlurmOptions& options) {
  Script script;
  script.comment(fmt::format("Cases of the grid for the card {}, a task for each model; `quantgrid submit` wrote this.",
                             array.card));
  script.comment("Each task has a journal of its own and goes on from it, however often it is started.");
  script.option(fmt::format("--array=0-{}", array.tasks.size() - 1));
  common_options(script, options, array.card, array.card + "-%a.log");
  script.option("--gres", gres_of(array.card, options), "gres");
  const auto constraint = options.constraints.find(array.card);
  if (constraint != options.constraints.end()) script.option("--constraint", constraint->second, "constraint");
  if (options.exclusive) script.option("--exclusive");
  script.option("--time", options.time_limit, "time limit");
  script.option(fmt::format("--signal=B:USR1@{}", options.signal_seconds));
  script.option("--requeue");
  for (const std::string& more : options.more) {
    if (!more.starts_with("--"))
      throw Error("\"" + more + "\" is no option of sbatch", "--sbatch", "write --sbatch=--NAME=VALUE");
    script.option(plain(more, "option"));
  }

  std::string text = "\nset -u\nnumbers=(  # of the cases in the grid, for each task\n";
  for (const SlurmArray::Task& task : array.tasks)
    text += fmt::format("  {}  # {}\n", fmt::join(task.numbers, ","), task.model);
  text += fmt::format(")\nmost_restarts={}\ntask=$SLURM_ARRAY_TASK_ID\n", options.most_restarts);
  text += fmt::format("journal={}/{}-$task.jsonl\n", shell_quoted((options.out / "journals").string()), array.card);
  text += fmt::format("cd {} || exit 4\n", shell_quoted(options.out.string()));
  text += "echo \"task $task on $(hostname), start ${SLURM_RESTART_COUNT:-0}, cases ${numbers[task]}\"\n";
  std::vector<std::string> flags = options.run_flags;
  if (options.on_processor || array.card == "cpu") flags.insert(flags.end(), {"--executor", "cpu"});
  text += fmt::format(
      "command=({} run {}\n  --filter \"number=${{numbers[task]}}\" --journal \"$journal\" --progress plain{}{})\n",
      shell_quoted(options.program.string()), shell_quoted(options.grid.string()), joined(flags),
      options.other_engine ? fmt::format(" \\\n  --engine-dir \"engines/{}-$task\"", array.card) : "");
  script.lines(text);
  script.lines(kRun);
  return std::move(script).text();
}

std::string merge_script(const SlurmOptions& options) {
  Script script;
  script.comment("Joins the journals of all tasks and writes the report; `quantgrid submit` wrote this.");
  common_options(script, options, "merge", "merge.log");
  script.lines(fmt::format(R"(
set -eu
cd {0}
shopt -s nullglob
journals=(journals/*.jsonl)
if ((${{#journals[@]}} == 0)); then
  echo "no task has written a journal; see logs/" >&2
  exit 2
fi
{1} merge "${{journals[@]}}" -o all.db
{1} report all.db --grid {2} -o report.html --md report.md
)",
                           shell_quoted(options.out.string()), shell_quoted(options.program.string()),
                           shell_quoted(options.grid.string())));
  return std::move(script).text();
}

std::filesystem::path array_script_file(const SlurmArray& array, const SlurmOptions& options) {
  return options.out / (array.card + ".sbatch");
}

std::filesystem::path merge_script_file(const SlurmOptions& options) {
  return options.out / "merge.sbatch";
}

std::string parse_job_id(std::string_view sbatch_output) {
  std::string_view line = sbatch_output;
  while (line.ends_with('\n') || line.ends_with('\r')) line.remove_suffix(1);
  line.remove_prefix(line.rfind('\n') + 1);  // what a cluster's own wrapper says comes before it
  const std::string_view id = line.substr(0, line.find(';'));
  const bool digits = !id.empty() && id.size() < 20 && id.find_first_not_of("0123456789") == std::string_view::npos;
  return digits ? std::string(id) : "";
}

}  // namespace qg
