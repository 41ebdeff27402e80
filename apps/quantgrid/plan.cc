// plan: every case of a grid before anything runs.
#include "grid/plan.h"

#include <fmt/format.h>

#include <algorithm>
#include <memory>

#include "bench/nvml.h"
#include "core/json_text.h"
#include "core/memory.h"
#include "core/version.h"
#include "engines/script.h"
#include "grid/commands.h"
#include "grid/filter.h"
#include "grid/plan_text.h"
#include "model/open_model.h"
#include "verb.h"

namespace qg {
namespace {

struct Flags {
  std::string grid, target, engine = "native", backend, filter, emit, profile = "quick";
  int64_t context = 0;  // 0: the grid's
  bool json = false, index = false, checkpoints = false, force = false;
};

Machine this_machine() {
  Machine machine;
  machine.memory_bytes = physical_memory_bytes();
  machine.has_cuda_executor = build_options().find("cuda") != std::string::npos;
  for (const GpuDevice& gpu : list_gpus().devices)
    if (const CardMatch match = identify_card(gpu.name, gpu.cc_major, gpu.cc_minor, gpu.memory_bytes); match.card)
      machine.cards.push_back(match.card->id);
  return machine;
}

// Cases of the target card, then those that the filter keeps.
std::vector<Case> chosen_cases(const Grid& grid, const Flags& flags) {
  const Filter filter = flags.filter.empty() ? Filter() : Filter(flags.filter, grid);
  std::vector<Case> cases = filtered(grid.cases, filter);
  if (flags.target.empty()) return cases;
  const std::vector<std::string> ids = grid.gpu_ids();
  if (std::find(ids.begin(), ids.end(), flags.target) == ids.end())
    throw Error(fmt::format("the grid has no case for the card \"{}\"", flags.target), "--target",
                fmt::format("name one of: {}; for another card write a grid with a [[product]] whose gpus = [\"{}\"]",
                            fmt::join(ids, ", "), flags.target));
  std::erase_if(cases, [&](const Case& c) { return c.gpu != flags.target; });
  return cases;
}

// A script for each case on the native engine; on an engine that is driven by commands, one for each (model, card).
size_t emit_scripts(const Grid& grid, const std::vector<PlanRow>& rows, const PlanOptions& options,
                    const Flags& flags) {
  std::vector<EmittedFile> files;
  if (options.engine == EngineId::native)
    for (const PlanRow& row : rows) files.push_back({script_name(row.c), case_script(grid, row, options)});
  else
    files = engine_scripts(grid, rows, options, flags.emit);
  write_emitted(files, flags.emit, flags.force);
  return static_cast<size_t>(
      std::count_if(files.begin(), files.end(), [](const EmittedFile& file) { return file.name.ends_with(".sh"); }));
}

ExitCode run(const Flags& flags) {
  const Grid grid = load_grid(flags.grid, read_model_shape);
  PlanOptions options;
  options.engine = find_engine(flags.engine, flags.backend).id;
  options.profile = *parse_profile(flags.profile);
  options.context_tokens = flags.context > 0 ? flags.context : grid.gates.context_tokens;
  options.machine = this_machine();
  const std::vector<PlanRow> rows = make_plan(grid, chosen_cases(grid, flags), options);

  if (!flags.emit.empty()) {
    const size_t scripts = emit_scripts(grid, rows, options, flags);
    fmt::print(flags.json ? stderr : stdout, "{} scripts in {}\n", scripts, flags.emit);
    if (!flags.json) return ExitCode::done;
  }
  if (flags.checkpoints) {
    const auto folders = plan_checkpoints(grid, rows);
    fmt::print("{}", flags.json ? json_text(to_json(folders), 2) + "\n" : checkpoint_table(folders));
  } else if (flags.index) {
    const auto index = plan_index(rows);
    fmt::print("{}", flags.json ? json_text(to_json(index), 2) + "\n" : index_table(index));
  } else {
    fmt::print("{}", flags.json ? json_text(to_json(rows), 2) + "\n" : plan_table(grid, rows, options));
  }
  return ExitCode::done;
}

std::function<ExitCode()> declare(CLI::App& command) {
  auto flags = std::make_shared<Flags>();
  command.add_option("grid", flags->grid, "grid file (TOML)")->required();
  command.add_option("--target", flags->target, "only the cases of this card");
  command.add_option("--engine", flags->engine, "native, tensorrt-llm, vllm or openai")->capture_default_str();
  command.add_option("--backend", flags->backend, "of tensorrt-llm: tensorrt or pytorch");
  command.add_option("--filter", flags->filter, "only the cases that match, as 'gpu=a100 & weights=int4_awq'");
  command
      .add_option("--context", flags->context,
                  "tokens of each request, for the greatest batch (default: the grid's, "
                  "4096)")
      ->check(CLI::Range(1, 1 << 24));
  command.add_option("--profile", flags->profile, "what `run` would measure: quick or full")
      ->check(CLI::IsMember({"quick", "full"}))
      ->capture_default_str();
  auto* index = command.add_flag("--index", flags->index, "by model and card");
  command.add_flag("--checkpoints", flags->checkpoints, "the folders to produce, and which cases each serves")
      ->excludes(index);
  auto* emit = command.add_option("--emit", flags->emit,
                                  "write scripts into this new folder: one for each case, or with --engine "
                                  "tensorrt-llm or vllm one for each model and card");
  command.add_flag("--force", flags->force, "--emit: replace the scripts of a folder that is there; results stay")
      ->needs(emit);
  command.add_flag("--json", flags->json, "print JSON");
  return [flags] { return run(*flags); };
}

const RegisterVerb kVerb({.order = 30,
                          .name = "plan",
                          .summary = "every case of a grid: support, checkpoint, bytes, batch, speed limit, time",
                          .example = "quantgrid plan grids/trt-llm-45.toml --filter 'gpu=a100 & weights=int4_awq'",
                          .declare = declare});

}  // namespace
}  // namespace qg
