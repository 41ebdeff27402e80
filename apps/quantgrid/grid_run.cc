#include "grid_run.h"

#include <fmt/format.h>

#include <algorithm>

#include "checkpoint/kv_scales.h"
#include "checkpoint/stored_types.h"
#include "checkpoint/synthetic.h"
#include "core/error.h"
#include "core/file_lock.h"
#include "core/hash.h"
#include "core/interrupt.h"
#include "core/log.h"
#include "core/memory.h"
#include "core/version.h"
#include "grid/commands.h"
#include "grid/names.h"
#include "grid/points.h"
#include "model/architecture.h"
#include "model/open_model.h"
#include "quantize/synthetic_checkpoint.h"

namespace qg {
namespace {

std::filesystem::path synthetic_folder(const Grid& grid, const GridModel& row, uint64_t seed) {
  return grid.models_dir / fmt::format("{}-synth-{}", row.stem, seed);
}

Error folder_is_missing(const Grid& grid, const GridModel& row) {
  const std::string named =
      fmt::format("`folder` under [models.{}] in {}",
                  row.name.find('.') == row.name.npos ? row.name : '"' + row.name + '"', grid.file.string());
  return Error(
      "the model's folder is not here", row.folder.string(),
      fmt::format("put the Hugging Face folder of {} there, {}, or say --weights-from synth to measure speed "
                  "with random weights",
                  row.label, row.has_own_folder ? "correct " + named : "name it with --model-dir or by " + named));
}

}  // namespace

GridRun::GridRun(const Grid& grid, std::vector<Case> cases, GridRunOptions options, JournalWriter& journal)
    : grid_(grid), cases_(std::move(cases)), options_(std::move(options)), journal_(journal) {}

std::filesystem::path GridRun::lock_file(const GridModel& row) const {
  std::filesystem::create_directories(grid_.models_dir);
  return grid_.models_dir / ("." + row.stem + ".lock");
}

GridRun::Model& GridRun::model(const std::string& name) {
  std::unique_ptr<Model>& slot = models_[name];
  if (slot) return *slot;
  auto m = std::make_unique<Model>();
  m->row = &grid_.model(name);
  m->folder = m->row->folder;
  m->stem = m->row->stem;
  if (!std::filesystem::exists(m->folder)) {
    if (!options_.synth_seed) throw folder_is_missing(grid_, *m->row);
    m->synthetic = true;
    if (options_.executor == "cuda") {  // in memory: nothing is calibrated, so nothing is worth keeping
      m->base = synthetic_checkpoint(*m, WeightFormat::fp16);
      m->base_hash = m->base->weights_hash();
      m->folder = m->row->stem;
      slot = std::move(m);
      return *slot;
    }
    m->folder = synthetic_folder(grid_, *m->row, *options_.synth_seed);
    m->stem = m->folder.filename().string();  // beside those of the real weights
    const FileLock lock(lock_file(*m->row), "making this model");
    if (!std::filesystem::exists(m->folder)) {
      const ModelTable table = make_model_table(m->row->shape.value());
      SyntheticOptions synthetic;
      synthetic.seed = *options_.synth_seed;
      info("{}: random weights of seed {} into {}: speed only", name, *options_.synth_seed,
           m->folder.filename().string());
      write_synthetic_model(table, hf_rules_of_family(table.shape.family), synthetic, m->folder);
    }
  }
  m->base = open_model(m->folder);
  if (const std::string note = f32_matrices_note(*m->base, DType::f16); options_.executor == "cuda" && !note.empty())
    info("{}: {}", name, note);
  m->tokenizer = Tokenizer::from_folder(m->folder);
  info("{}: hashing the weights", name);
  m->base_hash = m->base->weights_hash();
  slot = std::move(m);
  return *slot;
}

std::shared_ptr<const Checkpoint> GridRun::synthetic_checkpoint(const Model& m, WeightFormat weights) const {
  const ModelTable table = make_model_table(m.row->shape.value());
  QuantSpec quant;
  if (weights != WeightFormat::fp16) {
    std::vector<int64_t> widths;
    for (const LinearSpec& linear : table.linears) widths.push_back(linear.k);
    quant = default_recipe(weights).spec(widths);
    quant.prequant_scales = false;
  }
  SyntheticOptions synthetic;
  synthetic.seed = *options_.synth_seed;
  return make_synthetic_checkpoint(table, quant, synthetic);
}

bool GridRun::needs_kv_scales_file(const Model& m, const Case& c) const {
  return !m.synthetic && c.kv != KvFormat::fp16 && runs_original_model(engine_spec(EngineId::native), c.weights);
}

std::filesystem::path GridRun::kv_scales_file(const Model& m) const {
  return qg::kv_scales_file(grid_, m.folder);
}

std::shared_ptr<const Checkpoint> GridRun::checkpoint_of(Model& m, const Case& c) {
  const EngineSpec& native = engine_spec(EngineId::native);
  if (needs_kv_scales_file(m, c)) {
    if (!m.base_with_kv_scales) {
      m.base_with_kv_scales = with_kv_scales(m.base, kv_scales_file(m), m.base_hash);
      m.kv_scales_hash = sha256_file(kv_scales_file(m));
    }
    return m.base_with_kv_scales;
  }
  if (runs_original_model(native, c.weights)) return m.base;
  const std::string name = case_checkpoint(native, m.stem, c.weights, c.kv);
  std::shared_ptr<const Checkpoint>& slot = m.checkpoints[name];
  if (slot) return slot;
  if (!m.tokenizer) return slot = synthetic_checkpoint(m, c.weights);
  slot = open_model(grid_.models_dir / name);
  require_sound(m, *slot, c.weights);
  return slot;
}

// Of what was measured of speed, as against the parts that have names of their own.
bool speed_flags_matter(std::string_view workload) {
  return workload != "accuracy" && workload != "memory" && workload != "quantize";
}

CellPart GridRun::part(Model& m, const Case& c, const std::string& workload, const std::string& description) {
  CellPart p;
  p.workload = workload;
  CaseIdentity& id = p.identity;
  id.model_sha = m.synthetic ? "synth:" + std::to_string(*options_.synth_seed) + ":" + m.row->name : m.base_hash;
  if (needs_kv_scales_file(m, c)) {
    checkpoint_of(m, c);
    id.recipe_sha = m.kv_scales_hash;
  } else if (!runs_original_model(engine_spec(EngineId::native), c.weights)) {
    const auto checkpoint = checkpoint_of(m, c);
    if (checkpoint->lineage())
      id.recipe_sha = checkpoint->lineage()->recipe_hash() + checkpoint->lineage()->calibration_hash;
  }
  id.weights = to_string(c.weights);
  id.kv = to_string(c.kv);
  id.workload = workload + ": " + description;
  id.engine = engine_spec(EngineId::native).key();
  if (options_.served && workload != "quantize") id.engine += "/served";
  id.engine_build = version() + " " + build_commit();
  // A commit alone says which program it was only where there is one, and nothing was changed since.
  if (build_commit() == "unknown" || build_commit().ends_with("+dirty")) id.engine_build += " " + kernels_hash();
  if (speed_flags_matter(workload)) id.engine_flags = options_.speed_flags;
  id.target = c.gpu;
  id.measured_on = options_.measured_on;
  p.key = case_key(id);
  return p;
}

bool GridRun::wanted(const CellPart& p) const {
  return options_.rerun || !journal_.is_done(p.key);
}

Record GridRun::common_record(Model& m, const Case& c, const CellPart& p) {
  Record r;
  r.case_key = p.key;
  if (!p.identity.engine_flags.empty()) r.engine_flags = p.identity.engine_flags;
  r.case_id = c.id();
  if (c.number > 0) r.case_number = c.number;
  r.section = to_string(c.section);
  r.baseline_case_id = grid_.baseline_of(c).id();
  r.model = c.model;
  r.weights = to_string(c.weights);
  r.kv = to_string(c.kv);
  r.target = c.gpu;
  r.measured_on = options_.measured_on;
  r.cross_target = c.gpu != options_.measured_on;
  r.synthetic = m.synthetic;
  r.executor = options_.executor;
  r.engine = p.identity.engine;
  r.engine_version = version();
  r.workload = p.workload;
  r.base_ckpt_sha = m.base_hash;
  r.recipe_sha = p.identity.recipe_sha;
  if (m.tokenizer) r.tokenizer_sha = m.tokenizer->hash();
  r.checkpoint = runs_original_model(engine_spec(EngineId::native), c.weights)
                     ? m.folder.filename().string()
                     : case_checkpoint(engine_spec(EngineId::native), m.stem, c.weights, c.kv);
  r.started_at = utc_now();
  return r;
}

void GridRun::append(const Record& common, std::vector<Record> rows, double seconds) {
  CaseDone done;
  done.subject = common;
  done.seconds = seconds;
  journal_.append_case(std::move(done), std::move(rows));
}

void GridRun::append_failure(const Record& common, const std::string& what) {
  failed_.insert(common.case_id);
  warn("{}, {}: {}", common.case_id, common.workload, what);
  CaseDone done;
  done.subject = common;
  done.subject.status = to_string(CaseStatus::failed);
  done.subject.valid = false;
  done.subject.error_msg = what;
  journal_.append_case(std::move(done), {});
}

std::unique_ptr<Executor> GridRun::executor(Model& m, const Case& c, int64_t tokens, int64_t max_rows) {
  ExecutorOptions options;
  options.kv = c.kv;
  options.max_rows = max_rows;
  options.page_tokens = default_page_tokens(options_.executor);
  options.num_pages = tokens / options.page_tokens + 2;
  return make_executor(options_.executor, checkpoint_of(m, c), options, cuda_options(c));
}

// A card's kernels and memory, whatever card computes.
CudaExecutorOptions GridRun::cuda_options(const Case& c) const {
  CudaExecutorOptions cuda = options_.cuda;
  const Card& card = grid_.card(c.gpu);
  if (c.gpu == options_.measured_on || card.is_cpu()) return cuda;
  cuda.family = family_of(card.cc());
  cuda.memory_bytes = card.memory_bytes;
  cuda.shared_bytes = card.shared_bytes_per_block();
  return cuda;
}

bool GridRun::begin_peak() {
  const auto release = [](const std::shared_ptr<const Checkpoint>& checkpoint) {
    if (const TensorSet* files = checkpoint ? checkpoint->stored() : nullptr) files->release_pages();
  };
  for (const auto& [name, m] : models_) {
    if (!m) continue;
    release(m->base);
    for (const auto& [folder, checkpoint] : m->checkpoints) release(checkpoint);
  }
  if (reset_peak_rss()) return true;
  if (!said_no_peak_)
    warn("the kernel does not let the peak of resident memory begin anew (/proc/self/clear_refs), so none is recorded");
  said_no_peak_ = true;
  return false;
}

std::shared_ptr<Executor> GridRun::speed_executor(Model& m, const Case& c, const Load& load,
                                                  const EngineOptions& engine) {
  if (options_.executor == "cpu") {
    has_own_peak_ = begin_peak();
    return executor(m, c, engine.max_batch * (load.isl + load.osl + 32), engine.max_rows);
  }
  const auto wanted = std::make_pair(c.id(), engine.max_rows);
  if (speed_wanted_ == wanted && speed_executor_) return speed_executor_;
  speed_executor_.reset();  // its memory is needed
  has_own_peak_ = begin_peak();
  ExecutorOptions options;
  options.kv = c.kv;
  options.page_tokens = default_page_tokens(options_.executor);
  options.max_rows = engine.max_rows;
  options.max_pieces = kMostSequences;
  speed_executor_ = make_executor(options_.executor, checkpoint_of(m, c), options, cuda_options(c));
  speed_wanted_ = wanted;
  m.checkpoints.clear();  // a model in host memory is not needed beside the one on the card
  return speed_executor_;
}

std::vector<Workload> GridRun::workloads() const {
  return workloads_named(grid_, options_.profile, options_.points);
}

std::vector<Case> GridRun::cases_of(const std::string& model_name) const {
  std::vector<Case> cases;
  std::copy_if(cases_.begin(), cases_.end(), std::back_inserter(cases),
               [&](const Case& c) { return c.model == model_name; });
  return cases;
}

void GridRun::run() {
  const std::vector<Workload> wanted_workloads = workloads();
  for (const std::string& name : grid_.model_names()) {
    const std::vector<Case> cases = cases_of(name);
    if (cases.empty()) continue;
    Model& m = model(name);
    speed_executor_.reset();  // the last model's has all of the card's memory
    speed_wanted_ = {};
    if (!m.synthetic && !options_.served && !grid_.accuracy.text.empty()) require_accuracy_text();
    make_missing_checkpoints(m, cases);
    if (options_.served) {
      for (const Case& c : cases)
        for (const Workload& w : wanted_workloads) run_speed(m, c, w);
      serve_child_.reset();
      continue;
    }
    if (m.synthetic)
      info("{}: accuracy is not measured on random weights", name);
    else if (!grid_.accuracy.text.empty())
      run_accuracy(m, cases);
    for (const Case& c : cases) {
      run_memory(m, c);
      // The CPU reference's speed says nothing about a GPU, and a large model's takes days.
      if (options_.executor == "cpu" && !grid_.card(c.gpu).is_cpu() && options_.points.empty()) {
        if (!wanted_workloads.empty())
          info("{}: speed needs the card (--points NAME measures a workload on this CPU all the same)", c.id());
        continue;
      }
      for (const Workload& w : wanted_workloads) run_speed(m, c, w);
    }
  }
}

std::map<std::string, Record> GridRun::measured_rows(const Case& c) {
  std::map<std::string, Record> rows;
  Model& m = model(c.model);
  std::vector<std::string> keys{part(m, c, "memory", memory_description(m, c)).key,
                                part(m, c, "accuracy", accuracy_description()).key};
  const auto take = [&](const std::string& key, const std::string& prefix) {
    const Attempt* attempt = journal_.last_attempt(key);
    if (!attempt) return;
    for (const Record& row : attempt->rows) rows[prefix + row.metric] = row;
  };
  for (const std::string& key : keys) take(key, "");
  for (const Workload& w : workloads()) take(part(m, c, w.name, speed_description(w)).key, w.name + " ");
  return rows;
}

}  // namespace qg
