// quantgrid quantize: makes a quantized checkpoint with KV scales beside it.
#include "quantize/quantize.h"

#include <fmt/format.h>

#include <chrono>

#include "core/json_text.h"
#include "core/log.h"
#include "core/memory.h"
#include "core/progress.h"
#include "model/architecture.h"
#include "model/open_model.h"
#include "quantize/gpu_quantize.h"
#include "tokenizer/tokenizer.h"
#include "verb.h"

namespace qg {
namespace {

struct QuantizeFlags {
  std::string model, weights, calib, out, kv_scales, layout = "trtllm", tokenizer, executor = "cpu", kv, activations,
                                                     weight_scales;
  int64_t group_size = 0, tp = 1;
  double alpha = -1, gpu_memory_gb = 0;
  bool no_clip = false, no_feedback = false, no_search = false, zero_points = false, json = false;
  CalibrationOptions calibration;
};

Recipe recipe_of(const QuantizeFlags& flags) {
  Recipe recipe = default_recipe(*parse_weight_format(flags.weights));
  recipe.group_size = flags.group_size;
  recipe.zero_points = flags.zero_points || flags.layout == "autoawq";  // that layout always stores them
  recipe.clip_search = !flags.no_clip;
  recipe.error_feedback = !flags.no_feedback;
  recipe.scale_search = !flags.no_search;
  if (flags.no_search) recipe.alpha_steps = 0;
  if (flags.alpha >= 0) {
    recipe.alpha_steps = 0;
    recipe.fixed_alpha = flags.alpha;
  }
  const bool needs_static = flags.layout == "modelopt" && recipe.weights == WeightFormat::int8_sq;
  if (flags.activations == "static" || (flags.activations.empty() && needs_static))
    recipe.activations = ActivationScaling::static_tensor;
  if (flags.activations == "dynamic") recipe.activations = ActivationScaling::dynamic_token;
  if (flags.weight_scales == "tensor") recipe.weight_scaling = WeightScaling::tensor;
  if (flags.weight_scales == "channel") recipe.weight_scaling = WeightScaling::channel;
  if (recipe.weights == WeightFormat::fp8 && flags.weight_scales.empty() &&
      recipe.activations == ActivationScaling::dynamic_token)
    recipe.weight_scaling = WeightScaling::channel;  // what per-token layouts store
  return recipe;
}

QuantizeOutput output_of(const QuantizeFlags& flags) {
  QuantizeOutput output;
  output.recipe = recipe_of(flags);
  output.out = flags.out;
  output.layout = *parse_layout(flags.layout);
  output.ranks = flags.tp;
  if (!flags.kv.empty()) output.fixed_kv = *parse_kv_format(flags.kv);
  return output;
}

void print_report(const QuantizeReport& report, double seconds) {
  fmt::print("{}\n  {:.1f} s, peak memory {:.0f} MB, mean output error {:.2e}, worst {:.2e} in {}\n",
             report.out.string(), seconds, static_cast<double>(peak_rss_bytes()) / 1e6, report.mean_relative_error,
             report.worst_relative_error, report.worst_layer.empty() ? "none" : report.worst_layer);
}

// Where a GPU's time went, a line a phase.
Json phases_json(const GpuQuantizeReport& gpu) {
  Json phases = Json::object();
  for (const auto& [name, seconds] : gpu.phases) phases[name] = seconds;
  return {{"phases_s", phases},
          {"restored_layers", gpu.restored_layers},
          {"budget_bytes", gpu.budget.total_bytes()},
          {"read_bytes", gpu.read_bytes},
          {"forward_flop", gpu.forward_flop},
          {"gram_flop", gpu.gram_flop},
          {"rounding_flop", gpu.rounding_flop}};
}

void print_json(const QuantizeFlags& flags, const std::vector<QuantizeReport>& reports, const GpuQuantizeReport& gpu,
                double seconds) {
  Json json;
  json["seconds"] = seconds;
  json["executor"] = flags.executor;
  json["peak_gpu_bytes"] = gpu.peak_gpu_bytes;
  json["peak_host_bytes"] = peak_rss_bytes();
  json["peak_host_anonymous_bytes"] = gpu.peak_host_anonymous_bytes;
  if (flags.executor == "cuda") json["gpu"] = phases_json(gpu);
  json["out"] = flags.out.empty() ? flags.kv_scales : flags.out;
  if (!flags.kv_scales.empty()) json["kv_scales"] = flags.kv_scales;
  for (const QuantizeReport& report : reports) {
    json["weights"] = flags.weights;
    json["mean_relative_error"] = report.mean_relative_error;
    json["worst_relative_error"] = report.worst_relative_error;
    json["worst_layer"] = report.worst_layer;
  }
  fmt::print("{}\n", json_text(json, 2));
}

// A flag that the format has no use for would be ignored, and the folder would not be what was asked for. Flags that
// leave a search out may stand for all formats.
void refuse_flags_of_other_formats(const QuantizeFlags& f) {
  const bool fp8 = f.weights == "fp8", awq = f.weights == "int4_awq", sq = f.weights == "int8_sq";
  const auto refuse = [&](bool given, bool useful, const char* flag, const char* what_for) {
    if (given && !useful)
      throw Error(fmt::format("{} has no use for it, it is for {}",
                              f.weights.empty() ? "a calibration alone" : f.weights, what_for),
                  flag, "leave it out");
  };
  refuse(f.group_size > 0, awq, "--group-size", "int4_awq");
  refuse(f.zero_points, awq, "--zero-points", "int4_awq");
  refuse(!f.activations.empty(), fp8 || sq, "--activations", "fp8 and int8_sq");
  refuse(!f.weight_scales.empty(), fp8, "--weight-scales", "fp8");
  refuse(f.gpu_memory_gb > 0, f.executor == "cuda", "--gpu-memory", "--executor cuda");
}

ExitCode run(const QuantizeFlags& flags) {
  refuse_flags_of_other_formats(flags);
  if (!flags.kv.empty() && flags.layout == "trtllm")
    info("the trtllm layout has one KV scale a layer: the greater of K's and V's");
  if (flags.weights.empty() != flags.out.empty() || (flags.out.empty() && flags.kv_scales.empty()))
    throw Error("nothing says what to make", "quantize",
                "give --weights and --out for a checkpoint, or --kv-scales FILE for the KV cache's calibration alone");
  const auto start = std::chrono::steady_clock::now();
  const auto base = open_model(resolve_model(flags.model));
  const Tokenizer tokenizer =
      Tokenizer::from_folder(flags.tokenizer.empty() ? base->folder() : std::filesystem::path(flags.tokenizer));

  QuantizeJob job;
  job.base = base.get();
  job.architecture = architecture_of_family(base->table().shape.family);
  job.options = flags.calibration;
  job.tokenizer = flags.tokenizer;
  job.calibration = read_calibration(tokenizer, flags.calib, flags.calibration);
  job.kv_scales = flags.kv_scales;
  if (!flags.out.empty()) job.outputs.push_back(output_of(flags));
  const bool on_gpu = flags.executor == "cuda";
  if (!on_gpu)
    info("quantize {} to {}: needs about {:.0f} MB beside the mapped weights", base->folder().filename().string(),
         flags.weights.empty() ? "KV scales" : flags.weights, static_cast<double>(estimate_quantize_bytes(job)) / 1e6);

  std::vector<QuantizeReport> reports;
  GpuQuantizeReport gpu;
  {
    Progress progress("quantize", base->table().shape.layers * kQuantizeSteps, "steps");
    const auto on_step = [&](const std::string& step) {
      progress.note(step);
      progress.advance();
    };
    if (on_gpu) {
      GpuQuantizeOptions options;
      options.memory_bytes = static_cast<int64_t>(1e9 * flags.gpu_memory_gb);
      gpu = quantize_on_gpu(job, options, on_step);
      reports = gpu.outputs;
    } else {
      reports = quantize(job, on_step);
    }
  }
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  if (flags.json) {
    print_json(flags, reports, gpu, seconds);
  } else if (reports.empty()) {
    fmt::print("{}\n  {:.1f} s, peak memory {:.0f} MB\n", flags.kv_scales, seconds,
               static_cast<double>(peak_rss_bytes()) / 1e6);
  } else {
    print_report(reports[0], seconds);
  }
  return ExitCode::done;
}

void declare(CLI::App& command, QuantizeFlags& f) {
  command.add_option("--model", f.model, "the 16-bit model: a folder, or a name in the local Hugging Face cache")
      ->required();
  command
      .add_option("--weights", f.weights, "fp8, int4_awq, int8_sq, or fp16 (the same weights in the layout asked for)")
      ->check(CLI::IsMember({"fp16", "fp8", "int4_awq", "int8_sq"}));
  command.add_option("--calib", f.calib, "text file to calibrate on")->required();
  command.add_option("--out", f.out, "folder to make");
  command.add_option("--kv-scales", f.kv_scales,
                     "also write the KV cache's calibration to this file; alone, without --weights and --out, for a "
                     "16-bit model that is run as it is (`--kv-scales` of the verbs that run models takes it)");
  command.add_option("--layout", f.layout, "layout of the folder")
      ->check(CLI::IsMember({"trtllm", "modelopt", "compressed-tensors", "autoawq"}))
      ->capture_default_str();
  command
      .add_option(
          "--kv", f.kv,
          "fix the KV format inside the checkpoint: for TensorRT-LLM's TensorRT back end, or to store the scales in "
          "a modelopt or compressed-tensors folder (fp8)")
      ->check(CLI::IsMember({"fp8", "int8"}));
  command
      .add_option("--group-size", f.group_size,
                  "int4_awq: inputs that share a scale (default: the greatest of 128, 64, 32 that fits)")
      ->check(CLI::IsMember({32, 64, 128}));
  command
      .add_option(
          "--activations", f.activations,
          "how inputs are scaled: static, or dynamic per token (default: static for fp8, dynamic for int8_sq, which "
          "the modelopt layout has static alone)")
      ->check(CLI::IsMember({"static", "dynamic"}));
  command
      .add_option("--weight-scales", f.weight_scales,
                  "fp8: one scale a tensor or one a channel (default: channel with --activations dynamic, else tensor)")
      ->check(CLI::IsMember({"tensor", "channel"}));
  command.add_option("--alpha", f.alpha, "int4_awq, int8_sq: this smoothing exponent instead of searching")
      ->check(CLI::Range(0.0, 1.0));
  command.add_flag("--no-clip", f.no_clip, "int4_awq: do not search group ranges");
  command.add_flag("--no-error-feedback", f.no_feedback, "round to nearest");
  command.add_flag("--no-search", f.no_search, "take scales from the maxima, without any search");
  command.add_flag("--zero-points", f.zero_points,
                   "int4_awq: asymmetric codes (compressed-tensors; autoawq always has them)");
  command.add_option("--calib-sequences", f.calibration.sequences, "calibration sequences")
      ->check(CLI::Range(1, 100000))
      ->capture_default_str();
  command.add_option("--calib-tokens", f.calibration.tokens, "tokens of each")
      ->check(CLI::Range(2, 100000))
      ->capture_default_str();
  command.add_option("--search-tokens", f.calibration.sample_rows, "tokens that searches look at")
      ->check(CLI::Range(16, 1000000))
      ->capture_default_str();
  command.add_option("--seed", f.calibration.seed, "seed of all choices")->capture_default_str();
  command.add_option("--tokenizer", f.tokenizer, "folder with the tokenizer (default: the model's own)");
  command.add_option("--executor", f.executor, "cpu or cuda")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->capture_default_str();
  command
      .add_option("--gpu-memory", f.gpu_memory_gb,
                  "--executor cuda: use no more of the card than so many GB (default: what is free)")
      ->check(CLI::PositiveNumber);
  command.add_option("--tp", f.tp, "trtllm: GPUs that share the checkpoint")
      ->check(CLI::Range(1, 64))
      ->capture_default_str();
  command.add_flag("--json", f.json, "print JSON");
}

const RegisterVerb kVerb({50, "quantize", "Make a quantized checkpoint, with KV scales beside it",
                          "quantgrid quantize --model models/smollm2-135m-instruct --weights fp8 "
                          "--calib models/texts/calibration.txt --out smollm2-135m-instruct-trtllm-ckpt-wq_fp8-kv_fp16",
                          [](CLI::App& command) -> std::function<ExitCode()> {
                            auto flags = std::make_shared<QuantizeFlags>();
                            declare(command, *flags);
                            return [flags] { return run(*flags); };
                          }});

}  // namespace
}  // namespace qg
