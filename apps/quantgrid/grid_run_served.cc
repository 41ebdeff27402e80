// A case's speed through `quantgrid serve`: the same workloads and engine options as in this process, over HTTP.
#include <fmt/format.h>

#include <algorithm>
#include <optional>

#include "bench/load_record.h"
#include "core/error.h"
#include "core/log.h"
#include "core/progress.h"
#include "engines/openai_load.h"
#include "grid_run.h"
#include "runtime/device_probe.h"
#include "served.h"

namespace qg {

// One server for the decode and prefill workloads of a case, one for each of the others: how many replies may run at
// once depends on their length there.
ServeChild& GridRun::serve_child(Model& m, const Case& c, const Workload& workload) {
  const auto alone = [](const Workload& w) {
    return w.kind == WorkloadKind::throughput || w.kind == WorkloadKind::rate;
  };
  const bool cuda = options_.executor == "cuda";
  int64_t batch = 1, context = 1, in_all = 1, open = 1;
  EngineOptions engine;  // as run_speed() has them
  for (const Workload& w : workloads()) {
    if (alone(w) ? w.name != workload.name : alone(workload)) continue;
    const Load load = grid_load(w);
    const int64_t at_once = running_at_once(load, cuda);
    engine.max_rows = std::max(engine.max_rows, rows_of_step(load, cuda));
    batch = std::max(batch, at_once);
    open = std::max(open, open_at_most(load));
    context = std::max(context, load.isl + load.osl);
    in_all = std::max(in_all, at_once * (load.isl + load.osl + 32));
  }
  if (cuda) engine.prefill_chunk = engine.max_rows;
  const int64_t max_batch = std::min(batch, cuda ? kMostSequences : batch);
  std::vector<std::string> words;
  const auto add = [&](const char* name, const auto& value) {
    words.emplace_back(name);
    words.push_back(fmt::format("{}", value));
  };
  const EngineSpec& native = engine_spec(EngineId::native);
  if (m.tokenizer) {
    const std::filesystem::path folder = runs_original_model(native, c.weights)
                                             ? m.folder
                                             : grid_.models_dir / case_checkpoint(native, m.stem, c.weights, c.kv);
    add("--model", folder.string());
    if (needs_kv_scales_file(m, c)) add("--kv-scales", kv_scales_file(m).string());
  } else {  // random weights in memory
    add("--model", m.row->name);
    add("--weights-from", fmt::format("synth:{}", *options_.synth_seed));
    add("--weights", to_string(c.weights));
  }
  add("--kv", to_string(c.kv));
  add("--executor", options_.executor);
  add("--max-batch", max_batch);
  add("--max-rows", std::max(engine.max_rows, max_batch));
  add("--prefill-chunk", engine.prefill_chunk);
  add("--context-tokens", context);
  if (!cuda) add("--kv-tokens", in_all);
  if (cuda) {
    add("--gpu", device_uuid(options_.cuda.device));
    words.emplace_back("--shared");  // whether it is busy was asked when it was chosen
  }
  add("--max-queue", std::max<int64_t>(1024, open));
  add("--max-connections", std::max<int64_t>(1024, open + 64));
  add("--request-timeout", 86400);
  add("--drain-timeout", 0);
  words.emplace_back("--no-prefix-reuse");
  if (serve_child_ && serve_child_->flags() == words && serve_child_->alive()) return *serve_child_;
  serve_child_.reset();  // a card has no room for two
  info("{}: starting the server", c.id());
  serve_child_ = std::make_unique<ServeChild>(ServeChildSpec{this_program(), words});
  return *serve_child_;
}

void GridRun::run_served(Model& m, const Case& c, const Workload& w) {
  const CellPart p = part(m, c, w.name, describe(w));
  const Load load = grid_load(w);
  Record common = common_record(m, c, p);
  describe_load(load, common);
  EngineRun run;
  BenchResult result;
  GpuUse use;
  const bool cuda = options_.executor == "cuda";
  try {
    if (cuda && common.cross_target) throw Error("the server has no other card's kernels; measure in this process");
    ServeChild& server = serve_child(m, c, w);
    const GpuMeter meter(cuda ? device_uuid(options_.cuda.device) : "");
    std::optional<GpuWindow> window;
    Progress progress(fmt::format("{} {}, served", c.id(), w.name), total_output_tokens(load), "tokens");
    OpenAiLoadOptions options;
    options.on_token = [&](int64_t tokens) { progress.advance(tokens); };
    options.on_start = [&] {
      if (cuda) window.emplace([&] { return meter.read(); });
    };
    run = measure_server({server.url(), "", "", m.base->table().shape.vocab}, load, options, &result);
    if (window) use = window->stop();
    run.compute_path = server.compute_path();
    if (!run.ok() && !server.alive()) {
      run.status = CaseStatus::crash;
      run.reason += "; the server ended: " + server.last_words();
    }
  } catch (const Error& e) {
    if (e.code() == ExitCode::interrupted) throw;
    run = failed_run(CaseStatus::failed, "not_served", e.what());
  }
  if (run.ok() && c.gpu == options_.measured_on && load.speed == SpeedKind::decode)
    common.roofline_share = roofline_share(m, c, load, result);
  add_conditions(use, common);
  std::vector<Record> rows = engine_rows(common, run);
  if (run.ok() && cuda) add_gpu_rows(common, result, use, rows);
  journal_.append_case(engine_done(common, run), std::move(rows));
  if (run.ok()) return;
  failed_.insert(c.id());
  warn("{}, {}: {}", c.id(), w.name, run.reason);
}

}  // namespace qg
