// quantgrid run: the grid on this machine.
#include <fmt/format.h>

#include <algorithm>

#include "bench/gpu_choice.h"
#include "bench/load_record.h"
#include "core/file.h"
#include "core/json_text.h"
#include "core/log.h"
#include "engines/run_card.h"
#include "grid/cards.h"
#include "grid/filter.h"
#include "grid/points.h"
#include "grid_run.h"
#include "model/open_model.h"
#include "run_engine.h"
#include "run_server.h"
#include "runtime/device_probe.h"
#include "session.h"
#include "verb.h"

namespace qg {
namespace {

struct RunFlags {
  std::string grid, model_dir, filter, target, engine = "native", backend, profile = "quick", executor = "auto",
                                               journal, weights_from, gpu, tuning, calib;
  std::vector<std::string> points;
  ServerFlags server;
  std::string server_name;
  double window_s = 0;
  int64_t calib_sequences = 0;
  bool rerun = false, json = false, shared = false, tune = false, checkpoints_only = false, accuracy_apart = false;
  // Of other engines only.
  std::string engine_dir;
  double limit_minutes = 0;
  bool attempt = false;
};

// Flags that would be ignored are refused.
ExitCode run_other(EngineId engine, const RunFlags& f) {
  if (!f.weights_from.empty())
    throw Error("other engines load checkpoints, not random weights in memory", "--weights-from", "leave it out");
  if (f.executor != "auto") throw Error("an executor is the native engine's", "--executor", "leave it out");
  if (f.checkpoints_only)
    throw Error("another engine's checkpoints are made when its cases run", "--checkpoints-only",
                "leave it out, or make them with `quantgrid quantize`");
  if (!f.calib.empty() || f.calib_sequences > 0)
    throw Error("another engine's checkpoints are calibrated as the grid says", "--calib, --calib-sequences",
                "write it into the grid's [calibration]");
  if (f.shared) throw Error("only the native engine looks whether a GPU is busy", "--shared", "leave it out");
  if (f.tune || !f.tuning.empty() || f.window_s > 0 || f.accuracy_apart)
    throw Error("--tuning, --tune, --window and --accuracy-apart are the native engine's", "--engine",
                "leave them out");
  EngineRunFlags flags;
  flags.grid = f.grid;
  flags.model_dir = f.model_dir;
  flags.filter = f.filter;
  flags.target = f.target;
  flags.profile = f.profile;
  flags.journal = f.journal;
  flags.points = f.points;
  flags.rerun = f.rerun;
  flags.json = f.json;
  flags.attempt = f.attempt;
  flags.engine_dir = f.engine_dir;
  flags.gpu = f.gpu.empty() ? default_gpu() : f.gpu;
  if (f.limit_minutes > 0) flags.limit_minutes = f.limit_minutes;
  if (f.server.served) {
    OpenAiLoadOptions load = load_options(f.server, nullptr);
    load.limit_s = flags.limit_minutes * 60;
    flags.prompts = f.server.chat ? "chat" : f.server.prompts == "text" ? "text" : "";
    flags.served_load = openai_served_load(std::move(load));
  }
  return run_on_engine(engine, flags);
}

// The card that --gpu names, and how CUDA counts it.
struct ChosenGpu {
  GpuDevice device;
  int cuda_number = 0;
  std::string driver;
  int64_t count = 0;
};

ChosenGpu choose(const RunFlags& flags) {
  const GpuInventory gpus = list_gpus();
  ChosenGpu chosen;
  chosen.cuda_number = choose_gpu(flags.gpu, flags.shared);
  const std::string uuid = device_uuid(chosen.cuda_number);
  const auto at = std::find_if(gpus.devices.begin(), gpus.devices.end(),
                               [&](const GpuDevice& device) { return device.uuid == uuid; });
  if (at == gpus.devices.end())
    throw Error("the driver does not tell of this GPU" + (gpus.problem.empty() ? "" : ": " + gpus.problem), uuid,
                "run `quantgrid doctor`, or use --executor cpu", ExitCode::cannot_here);
  chosen.device = *at;
  chosen.driver = gpus.driver_version;
  chosen.count = static_cast<int64_t>(gpus.devices.size());
  return chosen;
}

// The card, as the grid's rows know it.
std::string card_of(const GpuDevice& device) {
  const CardMatch match = identify_card(device.name, device.cc_major, device.cc_minor, device.memory_bytes);
  if (!match.card)
    throw Error("this card is not in the table: " + match.reason, device.name, "add a row (docs/add-a-card.md)",
                ExitCode::cannot_here);
  return match.card->id;
}

void describe_gpu(const ChosenGpu& gpu, Environment& environment) {
  environment.machine = environment.gpu = gpu.device.name;
  environment.gpu_count = gpu.count;
  environment.gpu_memory_bytes = gpu.device.memory_bytes;
  environment.sm = fmt::format("{}.{}", gpu.device.cc_major, gpu.device.cc_minor);
  environment.driver = gpu.driver;
}

std::vector<Case> chosen_cases(const Grid& grid, const RunFlags& flags, const GridRunOptions& options) {
  const Filter filter = flags.filter.empty() ? Filter() : Filter(flags.filter, grid);
  std::vector<Case> cases = filtered(grid.cases, filter);
  if (!flags.target.empty()) std::erase_if(cases, [&](const Case& c) { return c.gpu != flags.target; });
  if (cases.empty())
    throw Error("no case is left", flags.filter.empty() ? "--target " + flags.target : "--filter " + flags.filter,
                "`quantgrid plan` shows the cases of the grid");
  if (flags.checkpoints_only) return cases;   // a checkpoint is the same whatever card it is for
  if (flags.executor == "cpu") return cases;  // asked for in so many words: any card's cases, for their accuracy
  if (options.executor == "cuda") {           // this card's cases; another's when --target names it
    const std::string target = flags.target.empty() ? options.measured_on : flags.target;
    std::erase_if(cases, [&](const Case& c) { return c.gpu != target; });
    if (cases.empty())
      throw Error("no case of the grid is for this card, " + options.measured_on, flags.grid,
                  "--target CARD runs another card's kernels here", ExitCode::cannot_here);
    return cases;
  }
  const auto here =
      std::stable_partition(cases.begin(), cases.end(), [&](const Case& c) { return grid.card(c.gpu).is_cpu(); });
  const auto elsewhere = cases.end() - here;
  if (here == cases.begin())
    throw Error(
        fmt::format(
            "none of the {} cases can run here: they are for graphics cards, and this build has no CUDA executor",
            elsewhere),
        flags.grid,
        "use quantgrid-cuda on a machine with a GPU ('make gpu' builds it), or --executor cpu to measure their "
        "accuracy on the processor",
        ExitCode::cannot_here);
  if (elsewhere > 0) warn("{} cases are for graphics cards and do not run here", elsewhere);
  cases.erase(here, cases.end());
  return cases;
}

std::optional<uint64_t> synth_seed(const std::string& text) {
  if (text.empty()) return std::nullopt;
  if (text == "synth") return 1;
  if (text.starts_with("synth:") && text.size() > 6 && text.size() < 20 &&
      text.find_first_not_of("0123456789", 6) == std::string::npos)
    return std::stoull(text.substr(6));
  throw Error("\"" + text + "\" is not a source of weights", "--weights-from", "use synth or synth:SEED");
}

std::string shown(const std::map<std::string, Record>& rows, const std::string& key, int digits, double scale = 1) {
  const auto it = rows.find(key);
  return it == rows.end() || !it->second.value ? "–" : fmt::format("{:.{}f}", *it->second.value * scale, digits);
}

std::string unit_of(const Workload& w) {
  if (w.kind != WorkloadKind::rate) return "tok/s";
  return headline_metric(w) == "goodput_requests_s" ? "good req/s" : "req/s";
}

void print_table(GridRun& run, const std::vector<Workload>& workloads) {
  fmt::print("\n{:>3}  {:<44} {:>8} {:>7} {:>8} {:>6} {:>9} {:>8}", "#", "case", "ppl", "ratio", "KL", "top-1",
             "weights", "KV/token");
  for (const Workload& w : workloads) fmt::print(" {:>14}", w.name);
  fmt::print("\n{:>3}  {:<44} {:>8} {:>7} {:>8} {:>6} {:>9} {:>8}", "", "", "", "", "nats", "", "MB", "bytes");
  for (const Workload& w : workloads) fmt::print(" {:>14}", unit_of(w));
  fmt::print("\n");
  for (const Case& c : run.cases()) {
    const auto rows = run.measured_rows(c);
    fmt::print("{:>3}  {:<44} {:>8} {:>7} {:>8} {:>6} {:>9} {:>8}", c.number, c.id(), shown(rows, "ppl", 3),
               shown(rows, "ppl_ratio", 4), shown(rows, "kld_mean", 5), shown(rows, "top1", 3),
               shown(rows, "weights_bytes", 1, 1e-6), shown(rows, "kv_bytes_per_token", 0));
    for (const Workload& w : workloads)
      fmt::print(" {:>14}",
                 shown(rows, fmt::format("{} {}", w.name, headline_metric(w)), w.kind == WorkloadKind::rate ? 2 : 1));
    fmt::print("\n");
  }
  fmt::print("\n");
}

Json cases_json(GridRun& run) {
  Json list = Json::array();
  for (const Case& c : run.cases()) {
    Json item{{"number", c.number}, {"id", c.id()}};
    for (const auto& [name, row] : run.measured_rows(c)) item["metrics"][name] = row.value ? Json(*row.value) : Json();
    list.push_back(item);
  }
  return list;
}

std::filesystem::path journal_file(const RunFlags& flags) {
  return flags.journal.empty() ? std::filesystem::path(flags.grid).stem().string() + ".jsonl" : flags.journal;
}

Grid grid_of(const RunFlags& flags) {
  Grid grid = load_grid(flags.grid, read_model_shape, flags.model_dir);
  if (!flags.calib.empty()) grid.calibration.text = flags.calib;
  if (flags.calib_sequences > 0) grid.calibration.samples = flags.calib_sequences;
  return grid;
}

// A case on a server that is up already: the card is the one that the case names.
ExitCode run_openai(const RunFlags& flags) {
  if (flags.server.served)
    throw Error("--served starts a server, but one is named that is up already", "--engine openai",
                "leave one of them out");
  const Grid grid = grid_of(flags);
  std::vector<Case> cases = filtered(grid.cases, flags.filter.empty() ? Filter() : Filter(flags.filter, grid));
  if (!flags.target.empty()) std::erase_if(cases, [&](const Case& c) { return c.gpu != flags.target; });
  if (cases.empty()) throw Error("no case is left", "--filter " + flags.filter, "`quantgrid plan` shows the cases");
  ServerRunOptions options;
  options.server = flags.server;
  options.name = flags.server_name;
  options.workloads = workloads_named(grid, *parse_profile(flags.profile), flags.points);
  options.rerun = flags.rerun;
  options.json = flags.json;
  JournalWriter journal(journal_file(flags), this_environment());
  return run_on_server(grid, cases, options, journal);
}

// Flags of other engines, or of the native one, that would be ignored.
void refuse_ignored(EngineId engine, const RunFlags& f) {
  const auto refuse = [](std::initializer_list<std::pair<bool, const char*>> given, const std::string& why) {
    for (const auto& [is_given, flag] : given)
      if (is_given) throw Error(why, flag, "leave it out");
  };
  if (engine == EngineId::native || engine == EngineId::openai)
    refuse(
        {{!f.engine_dir.empty(), "--engine-dir"}, {f.limit_minutes > 0, "--limit-minutes"}, {f.attempt, "--attempt"}},
        "this is for engines that are started here, TensorRT-LLM and vLLM");
  if (engine == EngineId::native)
    refuse({{!f.server.base_url.empty(), "--base-url"},
            {!f.server.api_key.empty(), "--api-key"},
            {!f.server.api_key_file.empty(), "--api-key-file"},
            {!f.server.server_model.empty(), "--server-model"},
            {!f.server_name.empty(), "--server-name"},
            {f.server.prompts == "text", "--prompts"},
            {f.server.chat, "--chat"}},
           "this is for other engines' servers; the native engine's gets token ids");
  if (engine == EngineId::openai)
    refuse({{f.server.served, "--served"},
            {f.executor != "auto", "--executor"},
            {f.shared, "--shared"},
            {!f.weights_from.empty(), "--weights-from"},
            {f.window_s > 0, "--window"},
            {!f.calib.empty(), "--calib"},
            {f.calib_sequences > 0, "--calib-sequences"},
            {f.checkpoints_only, "--checkpoints-only"},
            {!f.tuning.empty(), "--tuning"},
            {f.tune, "--tune"},
            {f.accuracy_apart, "--accuracy-apart"}},
           "a server that is up decides this itself");
}

ExitCode run(const RunFlags& flags) {
  const EngineId engine = find_engine(flags.engine, flags.backend).id;
  const bool takes_gpu = engine == EngineId::native ? has_cuda_executor() && flags.executor != "cpu" : true;
  if (!flags.gpu.empty() && (!takes_gpu || engine == EngineId::openai))
    throw Error("no GPU of this machine is used here", "--gpu", "leave it out");
  refuse_ignored(engine, flags);
  if (engine == EngineId::openai) return run_openai(flags);
  if (engine != EngineId::native) return run_other(engine, flags);
  if (flags.executor == "cuda" && !has_cuda_executor())
    throw Error("this build has no CUDA executor", "--executor cuda", "use quantgrid-cuda ('make gpu' builds it)",
                ExitCode::cannot_here);
  const Grid grid = grid_of(flags);
  GridRunOptions options;
  options.profile = *parse_profile(flags.profile);
  options.rerun = flags.rerun;
  options.synth_seed = synth_seed(flags.weights_from);
  options.points = flags.points;
  options.served = flags.server.served;
  options.window_s = flags.window_s;
  options.accuracy_apart = flags.accuracy_apart;
  Environment environment = this_environment();
  if (has_cuda_executor() && flags.executor != "cpu") {
    options.executor = "cuda";
    const ChosenGpu gpu = choose(flags);
    options.cuda.device = gpu.cuda_number;
    set_tuning(options.cuda, flags.tuning, flags.tune);
    if (!flags.tuning.empty()) options.speed_flags = "--tuning " + flags.tuning;
    if (flags.shared) options.speed_flags += options.speed_flags.empty() ? "--shared" : " --shared";
    options.measured_on = card_of(gpu.device);
    describe_gpu(gpu, environment);
  } else if (!flags.gpu.empty() || flags.shared) {
    throw Error(std::string(flags.gpu.empty() ? "--shared" : "--gpu") + " chooses a GPU, but the CPU executor runs", "",
                "leave it out, or use quantgrid-cuda ('make gpu' builds it)");
  }
  const std::vector<Case> cases = chosen_cases(grid, flags, options);
  const std::vector<Workload> workloads = workloads_named(grid, options.profile, options.points);
  JournalWriter journal(journal_file(flags), environment);
  info("{} cases, journal {}", cases.size(), journal.file().string());
  GridRun grid_run(grid, cases, options, journal);
  if (flags.checkpoints_only) {
    grid_run.make_checkpoints();
    return grid_run.failed_cases() == 0 ? ExitCode::done : ExitCode::cases_failed;
  }
  grid_run.run();
  if (flags.json)
    fmt::print("{}\n", json_text(cases_json(grid_run), 2));
  else
    print_table(grid_run, workloads);
  if (grid_run.failed_cases() == 0) return ExitCode::done;
  warn("{} of {} cases failed; the journal has the reasons, and the same command tries them again",
       grid_run.failed_cases(), cases.size());
  return ExitCode::cases_failed;
}

const RegisterVerb kVerb(
    {100, "run", "The grid on this machine: makes missing checkpoints, measures what is not done yet",
     "quantgrid run grids/demo.toml --journal demo/journal.jsonl", [](CLI::App& command) -> std::function<ExitCode()> {
       auto f = std::make_shared<RunFlags>();
       command.add_option("grid", f->grid, "grid file")->required();
       command.add_option("--model-dir", f->model_dir,
                          "where models are and checkpoints are made (default: the grid's models_dir); a model whose "
                          "`folder` the grid names is taken from there all the same");
       command.add_option("--filter", f->filter, "only cases that match, e.g. 'weights=fp8 & kv=fp8'");
       command.add_option("--target", f->target, "only cases of this card");
       command.add_option("--engine", f->engine, "native, tensorrt-llm, vllm or openai")->capture_default_str();
       command.add_option("--backend", f->backend, "of tensorrt-llm: tensorrt or pytorch");
       command.add_option("--profile", f->profile, "quick or full")
           ->check(CLI::IsMember({"quick", "full"}))
           ->capture_default_str();
       command.add_option("--executor", f->executor, "cpu, cuda or auto; cpu runs any card's cases on the processor")
           ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
           ->capture_default_str();
       command.add_option("--points", f->points, "only these workloads, e.g. decode/b1,128/128")->delimiter(',');
       command
           .add_option("--window", f->window_s,
                       "measure throughput in a steady state of this many seconds instead of over whole runs")
           ->check(CLI::Range(60.0, 86400.0));
       command.add_flag("--accuracy-apart", f->accuracy_apart,
                        "run the base and the others one after the other, as is done where memory is short");
       command.add_option("--journal", f->journal, "journal to append to (default: GRID.jsonl here)");
       command.add_option("--weights-from", f->weights_from,
                          "synth or synth:SEED: random weights where a model is missing, speed only");
       command.add_flag("--checkpoints-only", f->checkpoints_only,
                        "make the checkpoints that the cases need, of all cards, and measure nothing");
       command.add_option("--calib", f->calib, "text file to calibrate on (default: the grid's)");
       command.add_option("--calib-sequences", f->calib_sequences, "calibration sequences (default: the grid's)")
           ->check(CLI::Range(1, 100000));
       command.add_option("--engine-dir", f->engine_dir,
                          "of another engine: folder of its reports, logs and built engines (default: GRID-ENGINE)");
       command
           .add_option("--limit-minutes", f->limit_minutes,
                       "of another engine: after this it is ended, and the case is a timeout (default 60)")
           ->check(CLI::Range(0.001, 100000.0));
       command.add_flag("--attempt", f->attempt,
                        "of another engine: run what it does not list as supported, and versions that are not known");
       declare_server_flags(command, f->server);
       command.add_option("--server-name", f->server_name, "tells servers apart: the record's engine is openai/NAME")
           ->group("Servers");
       command.add_option("--gpu", f->gpu,
                          "which GPU: index or UUID, as `quantgrid devices` shows them (default: the first)");
       command.add_flag("--shared", f->shared, "run on a GPU that others are using");
       command.add_option("--tuning", f->tuning,
                          "file of what was measured to be fastest on this GPU, or none (default: one in "
                          "~/.cache/quantgrid; what is missing is measured)");
       command.add_flag("--tune", f->tune, "measure that anew");
       command.add_flag("--rerun", f->rerun, "measure again what is done");
       command.add_flag("--json", f->json, "print JSON");
       return [f] { return run(*f); };
     }});

}  // namespace
}  // namespace qg
