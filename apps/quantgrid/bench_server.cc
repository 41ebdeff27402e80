// quantgrid bench --engine openai, --served.
#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "bench/rate.h"
#include "bench_flags.h"
#include "core/json_text.h"
#include "core/log.h"
#include "core/progress.h"
#include "grid/models.h"
#include "model/open_model.h"
#include "runtime/make_executor.h"

namespace qg {
namespace {

constexpr int64_t kSmallestVocab = 32000;  // of the models that are met; ids below it are in every vocabulary

struct ServedModel {
  int64_t vocab = 0;
  std::optional<Tokenizer> tokenizer;
};

// What --model tells of the model behind the server: a folder, or a known name.
ServedModel model_of(const BenchFlags& flags) {
  ServedModel model;
  if (!flags.model.model.empty() && flags.synthetic.from.empty() && std::filesystem::is_directory(flags.model.model)) {
    model.vocab = open_model(resolve_model(flags.model.model))->table().shape.vocab;
    model.tokenizer = Tokenizer::from_folder(flags.model.tokenizer.empty() ? flags.model.model : flags.model.tokenizer);
  } else if (const KnownModel* known = find_known_model(flags.model.model)) {
    model.vocab = known->shape.vocab;
  }
  if (flags.vocab > 0) model.vocab = flags.vocab;
  return model;
}

std::vector<std::string> serve_flags(const BenchFlags& flags, const Load& load) {
  const bool cuda = has_cuda_executor() && flags.model.executor != "cpu";
  const int64_t in_flight = running_at_once(load, cuda);
  EngineOptions defaults;  // those of the same measurement in this process
  defaults.max_rows = flags.max_rows > 0 ? flags.max_rows : rows_of_step(load, cuda);
  if (cuda) defaults.prefill_chunk = defaults.max_rows;
  const int64_t max_batch = flags.max_batch > 0 ? flags.max_batch : in_flight;
  const int64_t max_rows = std::max(defaults.max_rows, max_batch);
  const int64_t chunk = flags.prefill_chunk > 0 ? flags.prefill_chunk : defaults.prefill_chunk;
  const int64_t context = load.isl + load.osl;
  std::vector<std::string> words{"--model",      flags.model.model, "--kv",
                                 flags.model.kv, "--executor",      flags.model.executor};
  const auto add = [&](const char* name, const auto& value) {
    words.emplace_back(name);
    words.push_back(fmt::format("{}", value));
  };
  if (!flags.model.kv_scales.empty()) add("--kv-scales", flags.model.kv_scales);
  if (flags.model.dtype != "fp16") add("--dtype", flags.model.dtype);
  if (!flags.model.gpu.empty()) add("--gpu", flags.model.gpu);
  if (flags.model.shared) words.emplace_back("--shared");
  if (!flags.model.tuning.empty()) add("--tuning", flags.model.tuning);
  if (flags.model.tune) words.emplace_back("--tune");
  if (!flags.model.tokenizer.empty()) add("--tokenizer", flags.model.tokenizer);
  if (!flags.synthetic.from.empty()) {
    add("--weights-from", flags.synthetic.from);
    add("--weights", flags.synthetic.weights);
  }
  add("--max-batch", max_batch);
  add("--max-rows", max_rows);
  add("--prefill-chunk", chunk);
  add("--context-tokens", context);
  if (!cuda) add("--kv-tokens", (max_batch + 1) * (context + 64));
  add("--max-queue", std::max<int64_t>(1024, open_at_most(load)));
  add("--max-connections", std::max<int64_t>(1024, open_at_most(load) + 64));
  add("--request-timeout", 86400);
  add("--drain-timeout", 0);
  words.emplace_back("--no-prefix-reuse");
  return words;
}

Json run_json(const EngineRun& run, const BenchResult& r, const Load& load, const std::string& engine) {
  Json json{{"workload", load.name}, {"engine", engine}, {"status", to_string(run.status)}};
  if (!run.ok()) {
    json["error_code"] = run.error_code;
    json["reason"] = run.reason;
  }
  for (const EngineMetric& metric : run.metrics) {
    json[metric.name] = metric.value;
    if (metric.ci_lo && metric.ci_hi && !json.contains("ci_lo")) {  // of the speed, which comes first
      json["ci_lo"] = *metric.ci_lo;
      json["ci_hi"] = *metric.ci_hi;
    }
  }
  json["prefill_tok_s"] = r.prefill_tok_s;
  json["itl_ms_p50"] = r.itl_ms_p50;
  json["batch_achieved"] = nullptr;  // only the server knows
  json["rounds"] = r.rounds;
  json["requests"] = r.requests;
  json["failed"] = r.failed;
  json["kernels"] = run.kernels;
  json["compute_path"] = run.compute_path;
  json["roofline_share"] = nullptr;
  json["engine_version"] = run.engine_version;
  json["engine_flags"] = run.engine_flags;
  return json;
}

void print_run(const EngineRun& run, const BenchResult& r, const Load& load, const std::string& engine) {
  fmt::print("{}: {} in, {} out, {} ({})\n", load.name, load.isl, load.osl, engine, run.engine_version);
  fmt::print("asked with      {}\n", run.engine_flags);
  fmt::print("{}         {}\n", load.speed == SpeedKind::prefill ? "prefill" : "output ",
             speed_text(r.output_tok_s, r.rounds));
  fmt::print("in and out      {:.1f} tok/s\n", r.total_tok_s);
  fmt::print("first token     {:.1f} ms (p50), {} (p99)\n", r.ttft_ms_p50,
             p99_text(r, load, "ttft_ms_p99", r.ttft_ms_p99, 1));
  fmt::print("per token       {:.2f} ms (p50);  gaps {:.2f} ms (p50), {} (p99)\n", r.tpot_ms_p50, r.itl_ms_p50,
             p99_text(r, load, "itl_ms_p99", r.itl_ms_p99, 2));
  for (const EngineMetric& metric : run.metrics)
    if (metric.name.starts_with("client_")) fmt::print("{:<17} {:.3f}\n", metric.name, metric.value);
  if (r.goodput)
    fmt::print("good            {:.2f} requests/s, {:.1f} % of them\n", r.goodput->requests_s,
               100 * r.goodput->share.value);
  fmt::print("{} requests, {} failed\n", r.requests, r.failed);
}

}  // namespace

ExitCode bench_server(const BenchFlags& flags, Load load) {
  ServedModel model = model_of(flags);
  std::unique_ptr<ServeChild> child;
  ServerAddress address;
  if (flags.server.served) {
    if (flags.engine != "native")
      throw Error("--served is the native engine behind its own server, but another engine was named",
                  "--engine " + flags.engine, "leave one of them out");
    if (flags.model.model.empty()) throw Error("no model is named", "--served", "add --model DIR");
    info("starting the server");
    child = std::make_unique<ServeChild>(ServeChildSpec{this_program(), serve_flags(flags, load)});
    address = {child->url(), "", "", model.vocab};
  } else {
    if (model.vocab == 0) {
      model.vocab = kSmallestVocab;
      info("prompts are drawn from ids below {}; --model FOLDER or --vocab N tells the model's vocabulary",
           model.vocab);
    }
    address = server_address(flags.server, model.vocab);
    load.seed = workload_seed(load.name);
  }
  OpenAiLoadOptions options = load_options(flags.server, model.tokenizer ? &*model.tokenizer : nullptr);
  Progress progress("bench " + load.name, total_output_tokens(load), "tokens");
  options.on_token = [&](int64_t tokens) { progress.advance(tokens); };
  BenchResult result;
  EngineRun run = measure_server(address, load, options, &result);
  std::string engine = "openai";
  if (child) {
    engine = "native/served";
    run.compute_path = child->compute_path();
    if (!child->alive() && !run.ok()) run.reason += "; the server ended: " + child->last_words();
  }
  if (flags.json)
    fmt::print("{}\n", json_text(run_json(run, result, load, engine), 2));
  else if (!run.metrics.empty())
    print_run(run, result, load, engine);
  if (run.ok()) return ExitCode::done;
  warn("{}: {}", to_string(run.status), run.reason);
  return ExitCode::cases_failed;
}

}  // namespace qg
