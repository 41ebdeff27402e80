#include "run_engine.h"

#include <fmt/format.h>

#include <algorithm>

#include "bench/load_record.h"
#include "checkpoint/lineage.h"
#include "core/hash.h"
#include "core/json_text.h"
#include "core/log.h"
#include "core/memory.h"
#include "core/new_folder.h"
#include "engines/run_card.h"
#include "engines/run_commands.h"
#include "engines/run_grid.h"
#include "grid/filter.h"
#include "grid/points.h"
#include "model/open_model.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

// A folder of ours says how it was made; of another tool's we know its configuration and the sizes of its files.
std::string recipe_of(const fs::path& folder) {
  if (const auto lineage = read_lineage(folder)) return lineage->recipe_hash() + lineage->calibration_hash;
  Sha256 hash;
  std::vector<fs::path> files;
  for (const auto& entry : fs::directory_iterator(folder)) files.push_back(entry.path());
  std::sort(files.begin(), files.end());
  for (const fs::path& file : files) {
    if (file.extension() == ".safetensors")
      hash.update(fmt::format("{} {}\n", file.filename().string(), fs::file_size(file)));
    if (file.filename() == "config.json" || file.filename() == "hf_quant_config.json") hash.update(sha256_file(file));
  }
  return "folder:" + hash.hex();
}

std::vector<PlanRow> chosen_rows(const Grid& grid, const EngineRunFlags& flags, const CardHere& card,
                                 const PlanOptions& plan) {
  const Filter filter = flags.filter.empty() ? Filter() : Filter(flags.filter, grid);
  std::vector<Case> cases = filtered(grid.cases, filter);
  if (!flags.target.empty() && flags.target != card.id)
    throw Error(fmt::format("another engine runs the kernels of the card that is here, {}", card.id),
                "--target " + flags.target, "leave it out, or run on a machine with that card");
  if (cases.empty())
    throw Error("no case is left", "--filter " + flags.filter, "`quantgrid plan` shows the cases of the grid");
  std::erase_if(cases, [&](const Case& c) { return c.gpu != card.id; });
  if (cases.empty())
    throw Error(fmt::format("no case is left for the card that is here, {}", card.id),
                flags.filter.empty() ? flags.grid : "--filter " + flags.filter,
                "`quantgrid plan` shows the cases; run them on a machine with their card", ExitCode::cannot_here);
  return make_plan(grid, cases, plan);
}

std::string shown(const std::map<std::string, Record>& rows, const std::string& key, int digits) {
  const auto it = rows.find(key);
  return it == rows.end() || !it->second.value ? "–" : fmt::format("{:.{}f}", *it->second.value, digits);
}

std::string speed_metric(const Workload& w) {
  return fmt::format("{} {}", w.name, headline_metric(w));
}

void print_table(const EngineGridRun& run) {
  fmt::print("\n{:>3}  {:<44} {:>9}", "#", "case", "build s");
  for (const Workload& w : run.workloads()) fmt::print(" {:>14}", w.name);
  fmt::print("\n");
  for (const PlanRow& row : run.rows()) {
    const auto rows = run.measured_rows(row);
    fmt::print("{:>3}  {:<44} {:>9}", row.c.number, row.c.id(), shown(rows, "build engine_build_s", 0));
    for (const Workload& w : run.workloads()) fmt::print(" {:>14}", shown(rows, speed_metric(w), 1));
    fmt::print("{}\n", row.support.status == SupportStatus::unsupported ? "  unsupported: " + row.support.reason : "");
  }
  fmt::print("\n");
}

Json cases_json(const EngineGridRun& run) {
  Json list = Json::array();
  for (const PlanRow& row : run.rows()) {
    Json item{{"number", row.c.number},
              {"id", row.c.id()},
              {"support", {{"status", to_string(row.support.status)}, {"reason", row.support.reason}}},
              {"metrics", Json::object()}};
    for (const auto& [name, r] : run.measured_rows(row)) item["metrics"][name] = r.value ? Json(*r.value) : Json();
    list.push_back(std::move(item));
  }
  return list;
}

}  // namespace

ExitCode run_on_engine(EngineId engine, const EngineRunFlags& flags) {
  const Grid grid = load_grid(flags.grid, read_model_shape, flags.model_dir);
  workloads_named(grid, *parse_profile(flags.profile), flags.points);  // a name that is not there is refused first
  const EngineSpec& spec = engine_spec(engine);
  std::string name = spec.key();
  std::replace(name.begin(), name.end(), '/', '-');
  const fs::path dir = flags.engine_dir.empty() ? fs::path(fs::path(flags.grid).stem().string() + "-" + name)
                                                : fs::path(flags.engine_dir);
  const NewFolder made(dir);  // a run that is refused leaves none
  std::error_code code;
  if (!fs::is_directory(dir, code))
    throw Error("the folder for reports and logs cannot be made", dir.string(), "name another with --engine-dir");

  const CardHere card = card_here(flags.gpu, dir);
  Environment environment = this_environment();
  environment.machine = environment.gpu = card.name;
  environment.gpu_memory_bytes = card.memory_bytes;
  environment.sm = fmt::format("{}.{}", card.cc_major, card.cc_minor);
  environment.driver = card.driver;

  PlanOptions plan;
  plan.engine = engine;
  plan.profile = *parse_profile(flags.profile);
  plan.context_tokens = grid.gates.context_tokens;
  plan.machine.memory_bytes = physical_memory_bytes();
  plan.machine.cards = {card.id};
  const std::vector<PlanRow> rows = chosen_rows(grid, flags, card, plan);

  DriverOptions driver_options;
  driver_options.bench_limit_s = flags.limit_minutes * 60;
  driver_options.server_limit_s = std::min(driver_options.server_limit_s, driver_options.bench_limit_s);
  driver_options.gpu = flags.gpu;
  driver_options.any_version = flags.attempt;
  driver_options.quantgrid = fs::read_symlink("/proc/self/exe", code).string();
  driver_options.scratch = dir;
  driver_options.served_load = flags.served_load;
  const std::unique_ptr<EngineDriver> driver = make_command_driver(engine, driver_options);

  EngineGridOptions options;
  options.measured_on = card.id;
  options.dir = dir;
  options.points = flags.points;
  options.rerun = flags.rerun;
  options.attempt = flags.attempt;
  options.served = static_cast<bool>(flags.served_load);
  options.prompts = flags.prompts;
  options.base_hash = [](const GridModel& model) {
    info("{}: hashing the weights", model.name);
    return open_model(model.folder)->weights_hash();
  };
  options.recipe_hash = recipe_of;

  const fs::path journal_file =
      flags.journal.empty() ? fs::path(fs::path(flags.grid).stem().string() + ".jsonl") : fs::path(flags.journal);
  JournalWriter journal(journal_file, environment);
  info("{}: {} cases on {}, journal {}", spec.label, rows.size(), card.name, journal_file.string());
  EngineGridRun run(grid, rows, plan, options, *driver, journal);
  run.run();
  if (flags.json)
    fmt::print("{}\n", json_text(cases_json(run), 2));
  else
    print_table(run);
  if (run.unsupported_cases() > 0)
    info("{} cases are not supported and have a row with the reason; --attempt runs them all the same",
         run.unsupported_cases());
  if (run.failed_cases() == 0) return ExitCode::done;
  warn("{} of {} cases failed; the journal has the reasons, and the same command tries them again", run.failed_cases(),
       rows.size());
  return ExitCode::cases_failed;
}

}  // namespace qg
