#include "engines/run_grid.h"

#include <fmt/format.h>

#include <algorithm>

#include "bench/load_record.h"
#include "core/error.h"
#include "core/hash.h"
#include "core/interrupt.h"
#include "core/log.h"
#include "core/utc.h"
#include "grid/points.h"
#include "grid/roofline.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

// What of the commands may change a figure: their words without the folders that they name.
std::string flags_of(const EngineCase& e, const Workload* w, bool served) {
  std::string words;
  const auto add = [&](const CommandLine& command) {
    for (const std::string& word : command.argv) words += fs::path(word).filename().string() + " ";
  };
  if (const auto build = build_command(e)) add(*build);
  if (served) add(serve_command(e, 0).command);
  if (w && !served && has_benchmark(*w)) {
    const Measurement m = measurement(e, *w);
    for (const BenchRun& run : m.runs) add(run.command);
    for (const WrittenFile& file : m.files) words += file.text;
  }
  return words;
}

std::optional<double> limit_tok_s(const ModelShape& shape, const Card& card, const Case& c, const Workload& w,
                                  const EngineRun& run) {
  const double isl = static_cast<double>(w.isl_tokens), osl = static_cast<double>(w.osl_tokens);
  if (w.kind == WorkloadKind::decode) return decode_tok_s(shape, card, c.weights, c.kv, w.batch, isl + osl / 2);
  if (w.kind == WorkloadKind::throughput && run.batch_achieved)
    return load_tok_s(shape, card, c.weights, c.kv, *run.batch_achieved, w.isl_tokens, w.osl_tokens);
  return std::nullopt;
}

}  // namespace

EngineGridRun::EngineGridRun(const Grid& grid, std::vector<PlanRow> rows, const PlanOptions& plan,
                             EngineGridOptions options, EngineDriver& driver, JournalWriter& journal)
    : grid_(grid),
      rows_(std::move(rows)),
      plan_(plan),
      options_(std::move(options)),
      driver_(driver),
      journal_(journal) {}

std::string EngineGridRun::engine_key() const {
  return engine_spec(plan_.engine).key() + (options_.served ? "/served" : "");
}

std::vector<Workload> EngineGridRun::workloads() const {
  return workloads_named(grid_, plan_.profile, options_.points);
}

EngineGridRun::Part EngineGridRun::part(const PlanRow& row, const EngineCase& e, const Workload* w,
                                        const std::string& name) const {
  const GridModel& model = grid_.model(row.c.model);
  const auto known = [](std::map<std::string, std::string>& cache, const std::string& key, const auto& make) {
    const auto found = cache.find(key);
    return found != cache.end() ? found->second : cache.emplace(key, make()).first->second;
  };
  std::error_code code;
  CaseIdentity id;
  id.model_sha = "absent:" + model.name;
  if (fs::is_directory(e.original, code))
    id.model_sha = known(base_hashes_, model.name, [&]() -> std::string {
      try {
        return options_.base_hash(model);
      } catch (const Error& error) {
        warn("{}: {}", model.name, error.what());
        return "unreadable:" + model.name;
      }
    });
  if (e.checkpoint != e.original && fs::is_directory(e.checkpoint, code))
    id.recipe_sha = known(recipe_hashes_, e.checkpoint.string(), [&] { return options_.recipe_hash(e.checkpoint); });
  id.weights = to_string(row.c.weights);
  id.kv = to_string(row.c.kv);
  id.workload = w ? w->name + ": " + describe(*w) : name;
  if (w && !options_.prompts.empty()) id.workload += " " + options_.prompts;
  id.engine = engine_key();
  id.engine_build = driver_.version();
  id.engine_flags = sha256_hex(flags_of(e, w, options_.served)).substr(0, 16);
  id.target = row.c.gpu;
  id.measured_on = options_.measured_on;
  Part p;
  p.key = case_key(id);
  Record& r = p.common;
  r.case_key = p.key;
  r.case_id = row.c.id();
  if (row.c.number > 0) r.case_number = row.c.number;
  r.section = to_string(row.c.section);
  r.baseline_case_id = grid_.baseline_of(row.c).id();
  r.model = row.c.model;
  r.weights = id.weights;
  r.kv = id.kv;
  r.target = id.target;
  r.measured_on = id.measured_on;
  r.cross_target = r.target != r.measured_on;
  r.engine = id.engine;
  r.engine_version = id.engine_build;
  r.workload = w ? w->name : name;
  if (w) {
    describe_load(load_of(*w), r);
    if (w->kind == WorkloadKind::throughput) r.batch.reset();  // how many run at once, the engine decides
  }
  r.checkpoint = e.checkpoint.filename().string();
  r.base_ckpt_sha = id.model_sha;
  r.recipe_sha = id.recipe_sha;
  r.started_at = utc_now();
  return p;
}

bool EngineGridRun::wanted(const std::string& key) const {
  if (options_.rerun || !journal_.is_done(key)) return true;
  const Attempt* last = journal_.last_attempt(key);
  return options_.attempt && last && last->done.subject.status == to_string(CaseStatus::skipped_unsupported);
}

void EngineGridRun::append(const Part& p, const EngineRun& run) {
  if (!run.ok()) {
    if (run.status != CaseStatus::skipped_unsupported) failed_.insert(p.common.case_id);
    warn("{}, {}: {}: {}", p.common.case_id, p.common.workload, to_string(run.status), run.reason);
  }
  journal_.append_case(engine_done(p.common, run), engine_rows(p.common, run));
}

void EngineGridRun::run_case(const PlanRow& row) {
  const EngineCase e = engine_case(grid_, row, plan_, options_.dir);
  if (row.support.status == SupportStatus::unsupported && !options_.attempt) {
    ++unsupported_;
    const Part p = part(row, e, nullptr, "support");
    if (journal_.is_done(p.key)) return;
    append(p, failed_run(CaseStatus::skipped_unsupported, "unsupported", row.support.reason));
    return;
  }
  std::vector<Workload> todo;
  for (const Workload& w : workloads()) {
    const Part p = part(row, e, &w, "");
    if (!wanted(p.key)) continue;
    if (options_.served || has_benchmark(w)) {
      todo.push_back(w);
    } else if (!journal_.is_done(p.key)) {
      append(p, failed_run(CaseStatus::skipped_unsupported, "needs_server",
                           fmt::format("not measured by {}'s own benchmark, which offers no requests at a rate; "
                                       "--served loads its server",
                                       engine_spec(plan_.engine).label)));
    }
  }
  if (todo.empty()) return;
  EngineRun ready = checked_;
  if (ready.ok()) {
    info("{} on {}", row.c.id(), engine_key());
    ready = driver_.prepare(e);
    recipe_hashes_.erase(e.checkpoint.string());  // it may have been made only now
  }
  if (!ready.ok()) {
    driver_.finish();
    for (const Workload& w : todo) append(part(row, e, &w, ""), ready);
    return;
  }
  if (!ready.metrics.empty()) {
    const Part p = part(row, e, nullptr, "build");
    if (wanted(p.key)) append(p, ready);
  }
  for (const Workload& w : todo) {
    stop_if_interrupted("what is in the journal is not measured again");
    Part p = part(row, e, &w, "");
    EngineRun run;
    try {
      run = driver_.run(e, w);
    } catch (...) {
      driver_.finish();
      throw;
    }
    const auto speed = std::find_if(run.metrics.begin(), run.metrics.end(),
                                    [](const EngineMetric& m) { return m.name == "output_tok_s"; });
    if (run.ok() && e.shape && !p.common.cross_target && speed != run.metrics.end())
      if (const auto limit = limit_tok_s(*e.shape, grid_.card(row.c.gpu), row.c, w, run))
        p.common.roofline_share = speed->value / *limit;
    append(p, run);
  }
  driver_.finish();
}

void EngineGridRun::run() {
  checked_ = driver_.check();
  if (!checked_.ok()) warn("{}: {}", engine_key(), checked_.reason);
  for (const PlanRow& row : rows_) {
    stop_if_interrupted("what is in the journal is not measured again");
    run_case(row);
  }
}

std::map<std::string, Record> EngineGridRun::measured_rows(const PlanRow& row) const {
  std::map<std::string, Record> rows;
  const EngineCase e = engine_case(grid_, row, plan_, options_.dir);
  const auto take = [&](const Part& p) {
    const Attempt* attempt = journal_.last_attempt(p.key);
    if (!attempt) return;
    for (const Record& r : attempt->rows)
      if (r.valid) rows[r.workload + " " + r.metric] = r;
  };
  for (const Workload& w : workloads()) take(part(row, e, &w, ""));
  take(part(row, e, nullptr, "build"));
  return rows;
}

}  // namespace qg
