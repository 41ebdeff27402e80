// quantgrid submit: the grid as array jobs of a cluster.
#include <fmt/format.h>
#include <sys/wait.h>

#include <algorithm>
#include <array>
#include <cstdio>

#include "core/file.h"
#include "core/json_text.h"
#include "core/log.h"
#include "fleet/slurm.h"
#include "grid/commands.h"
#include "grid/engines.h"
#include "grid/filter.h"
#include "model/open_model.h"
#include "served.h"
#include "verb.h"

namespace qg {
namespace {

struct SubmitFlags {
  std::string grid, out, filter, target, profile = "quick", model_dir, weights_from, executor = "auto",
                                         engine = "native", backend;
  std::vector<std::string> gres, constraints;  // CARD=VALUE
  SlurmOptions slurm;
  bool served = false, attempt = false;
  bool use_slurm = false, shared_node = false, dry_run = false, json = false;
};

// Values for a card that no case of `arrays` is for are refused: whoever gave them meant another card, whose tasks
// would ask for what they ask for by default.
std::map<std::string, std::string> by_card(const std::vector<std::string>& words, const char* flag, const Grid& grid,
                                           const std::vector<SlurmArray>& arrays) {
  std::map<std::string, std::string> values;
  for (const std::string& word : words) {
    const size_t at = word.find('=');
    if (at == std::string::npos || at == 0 || at + 1 == word.size())
      throw Error("\"" + word + "\" is not CARD=VALUE", flag, "for example h100=gpu:hopper:1");
    const std::string card = word.substr(0, at);
    grid.card(card);  // throws when there is none
    const auto is_for_card = [&](const SlurmArray& array) { return array.card == card; };
    if (std::none_of(arrays.begin(), arrays.end(), is_for_card)) {
      std::string cards;
      for (const SlurmArray& array : arrays) cards += (cards.empty() ? "" : ", ") + array.card;
      throw Error(fmt::format("no case that is left is for the card {}", card), fmt::format("{} {}", flag, word),
                  fmt::format("leave it out, or name a card that has cases: {}", cards));
    }
    values[card] = word.substr(at + 1);
  }
  return values;
}

struct Said {
  int status = -1;
  std::string text;
};

// A command's standard output. Its standard error goes to ours: clusters have sbatch tell things there (which account
// is billed), also when it takes the job.
Said ask(const std::string& command) {
  Said said;
  FILE* pipe = popen((command + " </dev/null").c_str(), "r");
  if (!pipe) throw Error("no process can be started", command, "", ExitCode::cannot_here);
  std::array<char, 1024> buffer{};
  for (size_t got; (got = fread(buffer.data(), 1, buffer.size(), pipe)) > 0;) said.text.append(buffer.data(), got);
  const int status = pclose(pipe);
  said.status = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  while (said.text.ends_with('\n')) said.text.pop_back();
  return said;
}

// `jobs`: those that Slurm has taken already, by card.
std::string submit_script(const std::filesystem::path& script, const std::string& dependency, const Json& jobs) {
  const std::string command =
      fmt::format("sbatch --parsable {}{}", dependency.empty() ? "" : "--dependency=" + dependency + " ",
                  shell_quoted(script.string()));
  const Said said = ask(command);
  if (said.status == 127)
    throw Error("sbatch is not installed here", command,
                "run this where jobs are submitted (Debian: apt install slurm-client); the scripts are written",
                ExitCode::cannot_here);
  const std::string id = said.status == 0 ? parse_job_id(said.text) : "";
  if (!id.empty()) return id;
  std::string what = "Slurm did not take the job, sbatch says why above";
  if (said.status == 0) what = "sbatch should print the job's number, printed \"" + said.text + "\"";
  std::string fix = "mend it, then run the same command again";
  if (!jobs.empty()) {
    std::string queued;
    for (const Json& job : jobs) queued += " " + job.get<std::string>();
    fix =
        "take the jobs before it out of the queue, scancel" + queued + ", then mend it and run the same command again";
  }
  throw Error(what, command, fix, ExitCode::cannot_here);
}

// Flags of every task for another engine than the native one; those that would be ignored are refused.
std::vector<std::string> engine_flags(const SubmitFlags& flags) {
  const EngineSpec& engine = find_engine(flags.engine, flags.backend);
  std::vector<std::string> words;
  if (flags.served) words.emplace_back("--served");
  if (engine.id == EngineId::native) {
    if (flags.attempt) throw Error("this is for TensorRT-LLM and vLLM", "--attempt", "leave it out");
    return words;
  }
  if (engine.id == EngineId::openai)
    throw Error("a server that is up already needs no jobs", "--engine openai", "use `quantgrid run`");
  if (!flags.weights_from.empty() || flags.executor != "auto")
    throw Error("--weights-from and --executor are the native engine's", "--engine " + flags.engine, "leave them out");
  if (flags.attempt) words.emplace_back("--attempt");
  words.insert(words.end(), {"--engine", flags.engine});
  if (!flags.backend.empty()) words.insert(words.end(), {"--backend", flags.backend});
  return words;
}

void describe(const std::vector<SlurmArray>& arrays, const SlurmOptions& options) {
  for (const SlurmArray& array : arrays) {
    size_t cases = 0;
    for (const SlurmArray::Task& task : array.tasks) cases += task.numbers.size();
    fmt::print("{}: {} cases in {} tasks, {}\n", array.card, cases, array.tasks.size(),
               array_script_file(array, options).string());
  }
}

ExitCode submit(SubmitFlags flags) {
  if (!flags.use_slurm) throw Error("no scheduler is named", "", "add --slurm");
  const Grid grid = load_grid(flags.grid, read_model_shape);
  std::vector<Case> cases = filtered(grid.cases, flags.filter.empty() ? Filter() : Filter(flags.filter, grid));
  if (!flags.target.empty()) std::erase_if(cases, [&](const Case& c) { return c.gpu != flags.target; });
  if (cases.empty()) throw Error("no case is left", "--filter " + flags.filter, "`quantgrid plan` shows the cases");

  SlurmOptions& options = flags.slurm;
  options.program = this_program();
  options.grid = std::filesystem::absolute(flags.grid).lexically_normal();
  const std::string stem = std::filesystem::path(flags.grid).stem().string();
  options.out = std::filesystem::absolute(flags.out.empty() ? stem + "-fleet" : flags.out).lexically_normal();
  const std::vector<SlurmArray> arrays = slurm_arrays(cases);
  options.gres = by_card(flags.gres, "--gres", grid, arrays);
  options.constraints = by_card(flags.constraints, "--constraint", grid, arrays);
  options.exclusive = !flags.shared_node;
  options.on_processor = flags.executor == "cpu";
  options.run_flags = {"--profile", flags.profile};
  if (!flags.model_dir.empty())
    options.run_flags.insert(options.run_flags.end(),
                             {"--model-dir", std::filesystem::absolute(flags.model_dir).lexically_normal().string()});
  if (!flags.weights_from.empty())
    options.run_flags.insert(options.run_flags.end(), {"--weights-from", flags.weights_from});

  const std::vector<std::string> of_engine = engine_flags(flags);
  options.run_flags.insert(options.run_flags.end(), of_engine.begin(), of_engine.end());
  options.other_engine = find_engine(flags.engine, flags.backend).id != EngineId::native;

  for (const SlurmArray& array : arrays) array_script(array, options);  // refuses before anything is written
  std::filesystem::create_directories(options.out / "journals");
  std::filesystem::create_directories(options.out / "logs");
  for (const SlurmArray& array : arrays) write_file(array_script_file(array, options), array_script(array, options));
  write_file(merge_script_file(options), merge_script(options));
  if (!flags.json) describe(arrays, options);
  Json jobs = Json::object();
  if (!flags.dry_run) {
    std::string all = "afterany";
    for (const SlurmArray& array : arrays) {
      const std::string id = submit_script(array_script_file(array, options), "", jobs);
      jobs[array.card] = id;
      all += ":" + id;
      if (!flags.json) fmt::print("{}: job {}\n", array.card, id);
    }
    jobs["merge"] = submit_script(merge_script_file(options), all, jobs);
    if (!flags.json)
      fmt::print("merge: job {}, after the others: {}\n", jobs["merge"].get<std::string>(),
                 (options.out / "report.html").string());
  } else if (!flags.json) {
    fmt::print("nothing was submitted (--dry-run): sbatch takes the scripts as they are\n");
  }
  if (flags.json) fmt::print("{}\n", json_text(Json{{"out", options.out.string()}, {"jobs", jobs}}, 2));
  return ExitCode::done;
}

const RegisterVerb kSubmit(
    {140, "submit", "The grid as array jobs of a cluster",
     "quantgrid submit grids/trt-llm-45.toml --slurm --time 08:00:00",
     [](CLI::App& command) -> std::function<ExitCode()> {
       auto f = std::make_shared<SubmitFlags>();
       SlurmOptions& slurm = f->slurm;
       command.add_option("grid", f->grid, "grid file, on a file system that all nodes share")->required();
       command.add_flag("--slurm", f->use_slurm, "through Slurm");
       command.add_option("-o,--out", f->out, "scripts, journals, logs and the report (default: GRID-fleet here)");
       command.add_option("--filter", f->filter, "only cases that match");
       command.add_option("--target", f->target, "only cases of this card");
       command.add_option("--profile", f->profile, "quick or full")
           ->check(CLI::IsMember({"quick", "full"}))
           ->capture_default_str();
       command.add_option("--model-dir", f->model_dir, "as of `run`: where models are and checkpoints are made");
       command.add_option("--weights-from", f->weights_from, "synth or synth:SEED: random weights, speed only");
       command.add_option("--executor", f->executor, "cpu: all cases on the nodes' processors, for their accuracy")
           ->check(CLI::IsMember({"auto", "cpu"}))
           ->capture_default_str();
       command.add_option("--engine", f->engine, "native, tensorrt-llm or vllm, which the nodes have on their PATH")
           ->capture_default_str();
       command.add_option("--backend", f->backend, "of TensorRT-LLM: tensorrt or pytorch");
       command.add_flag("--served", f->served, "as of `run`: the engine through its own server");
       command.add_flag("--attempt", f->attempt, "as of `run`: what another engine does not list as supported, too");
       command.add_option("--gres", f->gres,
                          "CARD=GRES where the cluster's names differ (default gpu:CARD:1), or CARD=none");
       command.add_option("--constraint", f->constraints, "CARD=FEATURE of the nodes");
       command.add_option("--partition", slurm.partition, "partition");
       command.add_option("--account", slurm.account, "account");
       command.add_option("--time", slurm.time_limit, "time limit of a task; it goes back into the queue and goes on");
       command.add_option("--signal-seconds", slurm.signal_seconds, "before the time limit, at which a task stops")
           ->check(CLI::Range(1, 3600))
           ->capture_default_str();
       command.add_option("--sbatch", slurm.more, "one more option for sbatch, such as --sbatch=--qos=long");
       command.add_flag("--shared-node", f->shared_node, "others may use the node's other cards meanwhile");
       command.add_flag("--dry-run", f->dry_run, "write the scripts, submit nothing");
       command.add_flag("--json", f->json, "print JSON");
       return [f] { return submit(*f); };
     }});

}  // namespace
}  // namespace qg
