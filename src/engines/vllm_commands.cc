#include "engines/vllm_commands.h"

#include <fmt/format.h>

#include <algorithm>

namespace qg {
namespace {

// `vllm bench throughput` draws prompts as text and tokenizes them again, so that a prompt can be some tokens longer.
constexpr int64_t kPromptSlackTokens = 64;
constexpr int kWarmupRounds = 2;

std::string number(int64_t n) {
  return fmt::format("{}", n);
}

std::vector<std::string> kv_notes(const Case& c) {
  if (c.kv == KvFormat::fp8)
    return {"--kv-cache-dtype fp8: e4m3 on NVIDIA cards, with the checkpoint's scales where it has them, else 1.0",
            "  (vLLM docs, features/quantization/quantized_kvcache)."};
  return {"--kv-cache-dtype auto: the model's 16-bit type, unless the folder asks for FP8 (kv_cache_scheme in its",
          "  config.json), which auto then obeys (vllm/utils/torch_utils.py, resolve_kv_cache_dtype_string).",
          "  The folder is checked for it. Newer versions also take float16 or bfloat16, which always win."};
}

// Words that both benchmarks share. (vLLM docs 0.12, cli/bench; vllm/engine/arg_utils.py)
void add_engine_words(CommandLine& command, const EngineCase& e, const Workload& w) {
  for (std::string word : {std::string("--kv-cache-dtype"), std::string(e.c.kv == KvFormat::fp8 ? "fp8" : "auto"),
                           std::string("--max-model-len"), number(w.isl_tokens + w.osl_tokens + kPromptSlackTokens),
                           std::string("--gpu-memory-utilization"), std::string("0.9"),
                           std::string("--no-enable-prefix-caching"), std::string("--disable-detokenize")})
    command.argv.push_back(std::move(word));
  for (std::string note : kv_notes(e.c)) command.notes.push_back(std::move(note));
  command.notes.push_back(
      "--no-enable-prefix-caching: rounds repeat the same prompts; the latency benchmark switches it off too.");
  command.notes.push_back("--disable-detokenize: trtllm-bench and our own engine count tokens, not text.");
}

BenchRun new_run(const Measurement& m, const std::string& name) {
  return {name, {}, m.folder / (name + ".json"), m.folder / (name + ".log")};
}

BenchRun latency_run(const Measurement& m, const EngineCase& e, const Workload& w, const std::string& name,
                     int64_t osl_tokens) {
  BenchRun run = new_run(m, name);
  run.command.argv = {"vllm",
                      "bench",
                      "latency",
                      "--model",
                      e.checkpoint.string(),
                      "--input-len",
                      number(w.isl_tokens),
                      "--output-len",
                      number(osl_tokens),
                      "--batch-size",
                      number(w.batch),
                      "--num-iters-warmup",
                      number(kWarmupRounds),
                      "--num-iters",
                      number(w.rounds),
                      "--output-json",
                      run.report.string()};
  run.command.notes = {"One batch, started together, timed from first to last token; EOS is ignored.",
                       "  (vllm/benchmarks/latency.py, 0.12)"};
  add_engine_words(run.command, e, w);
  return run;
}

BenchRun throughput_run(const Measurement& m, const EngineCase& e, const Workload& w) {
  BenchRun run = new_run(m, "total");
  run.command.argv = {"vllm",
                      "bench",
                      "throughput",
                      "--model",
                      e.checkpoint.string(),
                      "--dataset-name",
                      "random",
                      "--input-len",
                      number(w.isl_tokens),
                      "--output-len",
                      number(w.osl_tokens),
                      "--num-prompts",
                      number(throughput_requests(w)),
                      "--seed",
                      "1",
                      "--output-json",
                      run.report.string()};
  run.command.notes = {
      "All requests at once. tokens_per_second of the report counts prompts too: output tokens/s is",
      fmt::format("  num_requests * {} / elapsed_time. (vllm/benchmarks/throughput.py, 0.12)", w.osl_tokens)};
  add_engine_words(run.command, e, w);
  return run;
}

}  // namespace

Measurement vllm_measurement(const EngineCase& e, const Workload& w) {
  Measurement m;
  m.workload = w.name;
  m.folder = e.case_folder() / w.name;
  if (w.kind == WorkloadKind::throughput) {
    m.runs.push_back(throughput_run(m, e, w));
    return m;
  }
  if (w.kind == WorkloadKind::decode && w.osl_tokens > 1) {
    // The benchmark times whole rounds only; a run of one token gives the part before the first token.
    m.runs.push_back(latency_run(m, e, w, "first", 1));
    m.runs.push_back(latency_run(m, e, w, "total", w.osl_tokens));
    m.runs.back().command.notes.push_back(
        fmt::format("Output tokens/s of decoding: {} * {} / (avg_latency of total - avg_latency of first).", w.batch,
                    w.osl_tokens - 1));
    return m;
  }
  m.runs.push_back(latency_run(m, e, w, "total", w.osl_tokens));
  return m;
}

// (vLLM docs 0.12, cli/serve; the server answers GET /health.)
ServeCommand vllm_serve_command(const EngineCase& e, int port) {
  int64_t total = 2;
  for (const Workload& w : e.workloads) total = std::max(total, w.isl_tokens + w.osl_tokens);
  ServeCommand serve;
  serve.folder = e.case_folder() / "serve";
  serve.log = serve.folder / "serve.log";
  serve.command.argv = {"vllm",
                        "serve",
                        e.checkpoint.string(),
                        "--host",
                        "127.0.0.1",
                        "--port",
                        number(port),
                        "--kv-cache-dtype",
                        e.c.kv == KvFormat::fp8 ? "fp8" : "auto",
                        "--max-model-len",
                        number(total + kPromptSlackTokens),
                        "--gpu-memory-utilization",
                        "0.9",
                        "--no-enable-prefix-caching"};
  serve.command.notes = kv_notes(e.c);
  return serve;
}

}  // namespace qg
