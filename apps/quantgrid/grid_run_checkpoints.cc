// The checkpoints that a grid's cases need: those that are there are looked at, the others made.
#include <fmt/format.h>

#include "core/error.h"
#include "core/file_lock.h"
#include "core/log.h"
#include "core/memory.h"
#include "core/progress.h"
#include "grid/names.h"
#include "grid_run.h"
#include "model/architecture.h"
#include "model/open_model.h"
#include "quantize/gpu_quantize.h"

namespace qg {
namespace {

CalibrationOptions calibration_options(const CalibrationSettings& settings) {
  CalibrationOptions options;
  options.sequences = settings.samples;
  options.tokens = settings.sample_tokens;
  options.sample_rows = settings.search_tokens;
  options.seed = settings.seed;
  return options;
}

}  // namespace

void GridRun::require_sound(const Model& m, const Checkpoint& checkpoint, WeightFormat weights) const {
  const std::string folder = checkpoint.folder().string();
  const char* const again = "remove the folder to have it made again";
  if (checkpoint.quant().weights != weights)
    throw Error(
        fmt::format("holds {} weights, its name says {}", to_string(checkpoint.quant().weights), to_string(weights)),
        folder, again);
  if (checkpoint.lineage() && !checkpoint.lineage()->base_hash.empty() &&
      checkpoint.lineage()->base_hash != m.base_hash)
    throw Error("was made from other weights than the model's folder holds now", folder, again);
}

bool GridRun::has_checkpoint(const Model& m, const std::string& name, WeightFormat weights) const {
  const std::filesystem::path folder = grid_.models_dir / name;
  if (!std::filesystem::exists(folder)) return false;
  const auto checkpoint = open_model(folder);  // throws where a file or tensor is missing or not what it should be
  require_sound(m, *checkpoint, weights);
  const auto& lineage = checkpoint->lineage();
  info("{}: there already, {}", name,
       lineage ? "made from these weights on " + lineage->created : "without a lineage: taken as it is");
  return true;
}

QuantizeJob GridRun::missing_checkpoints(const Model& m, const std::vector<Case>& cases) const {
  const EngineSpec& native = engine_spec(EngineId::native);
  QuantizeJob job;
  std::set<std::string> names;
  for (const Case& c : cases) {
    if (needs_kv_scales_file(m, c) && !std::filesystem::exists(kv_scales_file(m))) job.kv_scales = kv_scales_file(m);
    if (runs_original_model(native, c.weights)) continue;
    const std::string name = case_checkpoint(native, m.stem, c.weights, c.kv);
    if (!names.insert(name).second || has_checkpoint(m, name, c.weights)) continue;
    QuantizeOutput output;
    output.recipe = default_recipe(c.weights);
    output.out = grid_.models_dir / name;
    job.outputs.push_back(std::move(output));
  }
  return job;
}

std::vector<QuantizeReport> GridRun::run_job(const Model& m, const QuantizeJob& job) const {
  const std::string what = fmt::format("{}: making {} checkpoints{}", m.row->name, job.outputs.size(),
                                       job.kv_scales.empty() ? "" : " and the KV scales of the 16-bit model");
  Progress progress("quantize " + m.row->name, m.base->table().shape.layers * kQuantizeSteps, "steps");
  const auto on_step = [&](const std::string& step) {
    progress.note(step);
    progress.advance();
  };
  if (options_.executor == "cuda") {
    info("{}", what);
    GpuQuantizeOptions gpu;
    gpu.device = options_.cuda.device;
    return quantize_on_gpu(job, gpu, on_step).outputs;
  }
  info("{}, about {:.0f} MB of memory", what, static_cast<double>(estimate_quantize_bytes(job)) / 1e6);
  return quantize(job, on_step);
}

void GridRun::make_missing_checkpoints(Model& m, const std::vector<Case>& cases) {
  if (!m.tokenizer) return;  // random weights in memory
  const QuantizeJob missing = missing_checkpoints(m, cases);
  if (missing.outputs.empty() && missing.kv_scales.empty()) return;
  const FileLock lock(lock_file(*m.row), "making checkpoints of this model");
  QuantizeJob job = missing_checkpoints(m, cases);
  if (job.outputs.empty() && job.kv_scales.empty()) return;  // meanwhile another process has made them
  if (grid_.calibration.text.empty())
    throw Error("checkpoints or KV scales are missing and the grid names no calibration text", grid_.file.string(),
                "use --calib FILE, add [calibration] text = \"FILE\", or make them with `quantgrid quantize`");
  job.base = m.base.get();
  job.architecture = architecture_of_family(m.base->table().shape.family);
  job.options = calibration_options(grid_.calibration);
  job.calibration = read_calibration(*m.tokenizer, grid_.calibration.text, job.options);
  const bool has_own_peak = begin_peak();
  const std::vector<QuantizeReport> reports = run_job(m, job);
  const auto peak_bytes = static_cast<double>(peak_rss_bytes());
  for (size_t i = 0; i < reports.size(); ++i) {
    const QuantizeReport& r = reports[i];
    info("{}: {:.0f} s, mean output error {:.1e}", r.out.filename().string(), r.seconds, r.mean_relative_error);
    Case subject;
    subject.model = m.row->name;
    subject.gpu = cases.front().gpu;
    subject.weights = job.outputs[i].recipe.weights;
    subject.section = Section::implied;
    const CellPart p = part(m, subject, "quantize", job.calibration.hash);
    Record common = common_record(m, subject, p);
    common.case_number.reset();
    std::vector<Record> rows{measured(common, "quantize_s", r.seconds)};
    if (has_own_peak) rows.push_back(measured(common, "peak_host_bytes", peak_bytes));
    append(common, std::move(rows), r.seconds);
  }
}

void GridRun::make_checkpoints() {
  for (const std::string& name : grid_.model_names()) {
    const std::vector<Case> cases = cases_of(name);
    if (cases.empty()) continue;
    if (!options_.synth_seed && !std::filesystem::exists(grid_.model(name).folder)) {
      warn("{}: {} is not here, its checkpoints are not made", name, grid_.model(name).folder.string());
      failed_.insert(name);
      continue;
    }
    make_missing_checkpoints(model(name), cases);
    models_.erase(name);
  }
}

}  // namespace qg
