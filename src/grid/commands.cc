#include "grid/commands.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "grid/plan_text.h"

namespace qg {
namespace {

// Line breaks in a title or a reason must not end a comment.
std::string comment(std::string text) {
  std::replace(text.begin(), text.end(), '\n', ' ');
  return "# " + text + "\n";
}

// A 16-bit model with an 8-bit cache is run from its own folder; its cache's calibration is a file of its own.
bool needs_kv_scales_file(const PlanRow& row) {
  return row.origin == CheckpointOrigin::original && row.c.kv != KvFormat::fp16;
}

std::string make_commands(const Grid& grid, const PlanRow& row) {
  const bool scales_alone = needs_kv_scales_file(row);
  if (row.origin != CheckpointOrigin::quantized && !scales_alone) return {};
  const GridModel& model = grid.model(row.c.model);
  const std::filesystem::path made =
      scales_alone ? kv_scales_file(grid, model.folder) : grid.models_dir / row.checkpoint;
  if (grid.calibration.text.empty())
    return comment("the grid names no calibration text, so this must be there already: " + made.filename().string());
  const CalibrationSettings& c = grid.calibration;
  const std::string out = shell_quoted(made.string());
  const std::string what = scales_alone ? "--kv-scales " + out
                                        : fmt::format("--weights {} --layout {} --out {}", to_string(row.c.weights),
                                                      engine_spec(EngineId::native).layout, out);
  return fmt::format(
      "[ -e {} ] || quantgrid quantize --model {} --calib {} --calib-sequences {} --calib-tokens {} --search-tokens {} "
      "--seed {} {}\n",
      out, shell_quoted(model.folder.string()), shell_quoted(c.text.string()), c.samples, c.sample_tokens,
      c.search_tokens, c.seed, what);
}

}  // namespace

std::filesystem::path kv_scales_file(const Grid& grid, const std::filesystem::path& model_folder) {
  return grid.models_dir / (model_folder.filename().string() + "-kv_scales.safetensors");
}

std::string rate_flags(const Workload& w) {
  std::string text = fmt::format(" --rate {} --requests {}", w.rate_per_s, w.requests);
  if (w.burstiness != 1) text += fmt::format(" --burstiness {}", w.burstiness);
  if (w.seed != kDefaultArrivalSeed) text += fmt::format(" --seed {}", w.seed);
  if (w.max_ttft_ms > 0) text += fmt::format(" --max-ttft {}", w.max_ttft_ms);
  if (w.max_tpot_ms > 0) text += fmt::format(" --max-tpot {}", w.max_tpot_ms);
  return text;
}

namespace {

std::string native_commands(const Grid& grid, const PlanRow& row, const PlanOptions& options) {
  const GridModel& model = grid.model(row.c.model);
  const std::filesystem::path folder =
      row.origin == CheckpointOrigin::original ? model.folder : grid.models_dir / row.checkpoint;
  std::string common = fmt::format("--model {} --kv {}", shell_quoted(folder.string()), to_string(row.c.kv));
  if (needs_kv_scales_file(row)) common += " --kv-scales " + shell_quoted(kv_scales_file(grid, model.folder).string());
  std::string text;
  for (const Workload& w : grid.workloads_of(options.profile)) {
    text += fmt::format("quantgrid bench {} --isl {} --osl {}", common, w.isl_tokens, w.osl_tokens);
    if (w.kind == WorkloadKind::rate) {
      text += rate_flags(w) + fmt::format(" --json  # {}\n", w.name);
      continue;
    }
    if (w.kind == WorkloadKind::throughput)
      text += fmt::format(" --concurrency {0} --requests {0}", throughput_requests(w));
    else
      text += fmt::format(" --batch {}", w.batch);
    text += fmt::format(" --rounds {} --json  # {}\n", w.rounds, w.name);
  }
  if (!grid.accuracy.text.empty())
    text += fmt::format("quantgrid eval {} --base {} --text {} --windows {} --window {} --json\n", common,
                        shell_quoted(model.folder.string()), shell_quoted(grid.accuracy.text.string()),
                        grid.accuracy.windows, grid.accuracy.window_tokens);
  return text;
}

}  // namespace

std::string script_name(const Case& c, size_t digits) {
  if (c.number > 0) return fmt::format("case-{:0{}}.sh", c.number, digits);
  std::string id = c.id();
  std::replace(id.begin(), id.end(), '/', '_');
  return "case-" + id + ".sh";
}

std::string shell_quoted(const std::string& text) {
  std::string out = "'";
  for (char c : text) out += c == '\'' ? "'\\''" : std::string(1, c);
  return out + "'";
}

std::string case_script(const Grid& grid, const PlanRow& row, const PlanOptions& options) {
  if (options.engine != EngineId::native)
    throw Error("scripts of other engines are made by src/engines", engine_spec(options.engine).key());
  std::string text = "#!/bin/sh\n";
  text += comment(fmt::format("Case {}: {} on {} ({})", row.c.number, row.c.id(), engine_spec(EngineId::native).label,
                              to_string(row.c.section)));
  text += comment(fmt::format("Support: {}: {}", to_string(row.support.status), row.support.reason));
  if (row.support.status == SupportStatus::unsupported)
    return text + fmt::format("echo {} >&2\nexit 4\n", shell_quoted("unsupported: " + row.support.reason));
  if (row.weights_bytes && row.run_seconds)
    text +=
        comment(fmt::format("Weights {:.2f} GB; about {} to run on {}", static_cast<double>(*row.weights_bytes) / 1e9,
                            duration_text(*row.run_seconds), row.card_label));
  text += comment(
      "Paths are relative to the folder in which `quantgrid plan` ran. `quantgrid run` does all of this, in a "
      "journal:");
  text += fmt::format("#   quantgrid run {} --filter 'number={}'\n", shell_quoted(grid.file.string()), row.c.number);
  return text + "set -e\n\n" + make_commands(grid, row) + native_commands(grid, row, options);
}

}  // namespace qg
