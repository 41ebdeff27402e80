#include "engines/trtllm_commands.h"

#include <fmt/format.h>

#include <algorithm>

namespace qg {
namespace {

// What trtllm-build takes by default, and trtllm-bench for formats that it has no heuristics for.
// (TensorRT-LLM 1.x, tensorrt_llm/builder.py, BuildConfig; tensorrt_llm/bench/build/tuning.py)
constexpr int64_t kEngineBatch = 2048;
constexpr int64_t kEngineTokens = 8192;
constexpr int64_t kGraphBatch = 2048;
constexpr int64_t kServeBatch = 256;    // trtllm-serve's own default varies between versions, so it is written out
constexpr int64_t kLeastTokens = 2048;  // of one iteration, when the batch is given
constexpr int64_t kLeastWarmup = 2;     // trtllm-bench's default
constexpr const char* kMemoryShare = "0.9";

std::string number(int64_t n) {
  return fmt::format("{}", n);
}

bool is_tensorrt(const EngineCase& e) {
  return e.engine == EngineId::trtllm_tensorrt;
}

// An 8-bit cache under 16-bit attention: paged-context attention has no kernels for it, so neither block reuse nor
// chunked prefill. (TensorRT-LLM 1.x, tensorrt_llm/builder.py; pull request 8862)
bool excludes_paged_context(const Case& c) {
  return c.kv == KvFormat::int8 || (c.kv == KvFormat::fp8 && c.weights != WeightFormat::fp8);
}

int64_t requests_of(const Workload& w) {
  return w.kind == WorkloadKind::throughput ? throughput_requests(w) : w.batch * w.rounds;
}

// Tokens of one iteration: without chunked prefill a prompt must fit, and a batch that starts together should.
int64_t iteration_tokens(const Workload& w) {
  return std::max(kLeastTokens, w.batch * w.isl_tokens);
}

// `latency` runs one request at a time and streams; it takes no batch. On the PyTorch back end it takes no options file
// before 1.2 (--extra_llm_api_options is missing in sources of 1.0 and of the release candidates of 1.1), so that no KV
// format could be chosen: there `throughput` with one request at a time measures the same.
// (tensorrt_llm/bench/benchmark/low_latency.py)
bool runs_as_latency(const EngineCase& e, const Workload& w) {
  return is_tensorrt(e) && w.kind == WorkloadKind::decode && w.batch == 1;
}

CommandLine tokens_command(const EngineCase& e, const Workload& w, const std::filesystem::path& file) {
  CommandLine command;
  command.argv = {"python3",    (e.tools / kTokensProgram).string(),
                  "--model",    e.original.string(),
                  "--input",    number(w.isl_tokens),
                  "--output",   number(w.osl_tokens),
                  "--requests", number(requests_of(w)),
                  "--seed",     "1",
                  "--out",      file.string()};
  command.notes = {"Prompts of random tokens; JSON lines as TensorRT-LLM 1.x, tensorrt_llm/bench/utils/data.py reads."};
  return command;
}

void add_load_words(CommandLine& command, const EngineCase& e, const Workload& w) {
  auto& argv = command.argv;
  if (w.kind == WorkloadKind::throughput) {
    command.notes.push_back("All requests are offered at once (--concurrency -1, the default).");
    if (!is_tensorrt(e))
      command.notes.push_back(
          "Batch and tokens of an iteration: trtllm-bench's own heuristics (tensorrt_llm/bench/build/tuning.py).");
    return;
  }
  argv.insert(argv.end(), {"--concurrency", number(w.batch), "--warmup", number(std::max(kLeastWarmup, w.batch))});
  if (w.batch == 1) {
    command.notes.push_back(fmt::format("{} requests, one after the other.", w.rounds));
  } else {
    command.notes.push_back(
        fmt::format("{} rounds of {}: requests have the same lengths, so that with this concurrency the next {} start",
                    w.rounds, w.batch, w.batch));
    command.notes.push_back(fmt::format("  when the last {} end.", w.batch));
  }
  if (runs_as_latency(e, w)) return;
  argv.insert(argv.end(), {"--max_batch_size", number(w.batch), "--max_num_tokens", number(iteration_tokens(w))});
  if (w.kind == WorkloadKind::decode) argv.push_back("--streaming");  // reports times to first token and between tokens
}

void add_kv_notes(CommandLine& command, const EngineCase& e) {
  auto& notes = command.notes;
  if (is_tensorrt(e)) {
    notes.push_back("The KV format lies in the engine; kv_cache_config.dtype must stay auto on this back end");
    notes.push_back("  (tensorrt_llm/llmapi/llm_args.py), so that no options file is given.");
    return;
  }
  if (e.c.kv == KvFormat::fp16) {
    notes.push_back("dtype auto means what the folder says. It is a 16-bit cache only if kv_cache_quant_algo is");
    notes.push_back("  null in its hf_quant_config.json, and dtype is written out: with no dtype at all, trtllm-bench");
    notes.push_back("  gives FP8 weights an FP8 cache (tensorrt_llm/bench/benchmark/utils/general.py). There is no");
    notes.push_back(
        "  value that forces 16 bits: the folder is checked before, the cache type of the report after the");
    notes.push_back("  run. CHECK in total.kv that the log agrees with the report.");
  }
}

CommandLine bench_command(const EngineCase& e, const Workload& w, const Measurement& m,
                          const std::filesystem::path& options_file, const BenchRun& run) {
  CommandLine command;
  auto& argv = command.argv;
  // --model_path is read for tokenizer and config.json; on the PyTorch back end it is also what is loaded.
  argv = {"trtllm-bench",
          "--model",
          e.model_id,
          "--model_path",
          (is_tensorrt(e) ? e.original : e.checkpoint).string(),
          runs_as_latency(e, w) ? "latency" : "throughput",
          "--backend",
          is_tensorrt(e) ? "tensorrt" : "pytorch"};
  if (is_tensorrt(e))
    argv.insert(argv.end(), {"--engine_dir", e.engine_folder().string()});
  else
    argv.insert(argv.end(), {"--extra_llm_api_options", options_file.string()});
  argv.insert(argv.end(), {"--dataset", m.tokens_file.string(), "--num_requests", number(requests_of(w)),
                           "--kv_cache_free_gpu_mem_fraction", kMemoryShare});
  add_load_words(command, e, w);
  argv.insert(argv.end(), {"--report_json", run.report.string()});
  add_kv_notes(command, e);
  if (w.kind == WorkloadKind::decode && w.batch == 1 && !is_tensorrt(e)) {
    command.notes.push_back("throughput, not latency: `trtllm-bench latency` of 1.0 and 1.1 takes no options file, so");
    command.notes.push_back(
        "  that the KV format could not be chosen. One request at a time, streaming: the same thing.");
  }
  if (w.osl_tokens == 1)
    command.notes.push_back("One token out: only request latency and total token throughput mean anything.");
  return command;
}

std::string options_text(const Case& c, int64_t graph_batch) {
  return fmt::format(
      "kv_cache_config:\n"
      "  dtype: {}\n"
      "  enable_block_reuse: false\n"
      "  free_gpu_memory_fraction: {}\n"
      "enable_chunked_prefill: false\n"
      "cuda_graph_config:\n"
      "  enable_padding: true\n"
      "  max_batch_size: {}\n",
      c.kv == KvFormat::fp8 ? "fp8" : "auto", kMemoryShare, graph_batch);
}

// Of all workloads, for an engine or a server that is started once.
struct Longest {
  int64_t isl = 1, total = 2;
};
Longest longest(const EngineCase& e) {
  Longest most;
  for (const Workload& w : e.workloads) {
    most.isl = std::max(most.isl, w.isl_tokens);
    most.total = std::max(most.total, w.isl_tokens + w.osl_tokens);
  }
  return most;
}

}  // namespace

std::string trtllm_options_text(const Case& c, const Workload& w) {
  return options_text(c, w.kind == WorkloadKind::throughput ? kGraphBatch : w.batch);
}

CommandLine trtllm_build_command(const EngineCase& e) {
  const auto [isl, total] = longest(e);
  const bool paged = !excludes_paged_context(e.c);
  const bool all_fp8 = e.c.weights == WeightFormat::fp8 && e.c.kv == KvFormat::fp8;
  CommandLine command;
  command.argv = {"trtllm-build",
                  "--checkpoint_dir",
                  e.checkpoint.string(),
                  "--output_dir",
                  e.engine_folder().string(),
                  "--max_batch_size",
                  number(kEngineBatch),
                  "--max_num_tokens",
                  number(std::max(kEngineTokens, isl)),
                  "--max_input_len",
                  number(isl),
                  "--max_seq_len",
                  number(total),
                  "--multiple_profiles",
                  "enable",
                  "--gemm_plugin",
                  e.c.weights == WeightFormat::fp8 ? "disable" : "auto",
                  "--use_paged_context_fmha",
                  paged ? "enable" : "disable",
                  "--log_level",
                  "info"};
  if (all_fp8) command.argv.insert(command.argv.end(), {"--use_fp8_context_fmha", "enable"});
  command.notes = {
      "--max_batch_size, --max_num_tokens: the defaults, raised to the longest prompt; the cache is paged, so that a",
      "  large batch costs buffers only. --max_seq_len: the longest workload.",
      "--multiple_profiles enable, --gemm_plugin auto but not for FP8: advised by TensorRT-LLM docs,",
      "  legacy/performance/performance-tuning-guide/useful-build-time-flags.md.",
  };
  command.notes.push_back(paged ? "--use_paged_context_fmha enable: the same page."
                                : "--use_paged_context_fmha disable: there is none for an 8-bit cache under 16-bit "
                                  "attention (tensorrt_llm/builder.py).");
  if (all_fp8)
    command.notes.push_back("--use_fp8_context_fmha enable: FP8 weights and cache; docs, legacy, fp8-quantization.md.");
  if (e.c.weights == WeightFormat::int8_sq)
    command.notes.push_back("SmoothQuant's plugins are switched on by the checkpoint's quant_algo (builder.py).");
  return command;
}

Measurement trtllm_measurement(const EngineCase& e, const Workload& w) {
  Measurement m;
  m.workload = w.name;
  m.folder = e.case_folder() / w.name;
  m.tokens_file =
      e.out / "tokens" / fmt::format("{}-{}-{}-{}.jsonl", e.c.model, w.isl_tokens, w.osl_tokens, requests_of(w));
  m.tokens = tokens_command(e, w, m.tokens_file);
  const std::filesystem::path options = m.folder / "options.yaml";
  if (!is_tensorrt(e))
    m.files.push_back(
        {options,
         trtllm_options_text(e.c, w),
         {"Overrides what trtllm-bench sets; kv_cache_config replaces its whole section, so all of it stands here",
          "  (tensorrt_llm/llmapi/llm_args.py, update_llm_args_with_extra_dict).",
          "enable_block_reuse, enable_chunked_prefill false: warm-up prompts are drawn from those that are measured, "
          "and",
          "  an FP8 cache under 16-bit attention has no kernels for either (pull request 8862).",
          "cuda_graph_config: graphs for every batch, padded, as in the published runs (perf-overview.md)."}});
  BenchRun run{"total", {}, m.folder / "total.json", m.folder / "total.log"};
  run.command = bench_command(e, w, m, options, run);
  m.runs.push_back(std::move(run));
  return m;
}

// (TensorRT-LLM docs 1.1, commands/trtllm-serve; the server answers GET /health.)
ServeCommand trtllm_serve_command(const EngineCase& e, int port) {
  const auto [isl, total] = longest(e);
  ServeCommand serve;
  serve.folder = e.case_folder() / "serve";
  serve.log = serve.folder / "serve.log";
  auto& argv = serve.command.argv;
  argv = {"trtllm-serve", (is_tensorrt(e) ? e.engine_folder() : e.checkpoint).string(),
          "--backend",    is_tensorrt(e) ? "tensorrt" : "pytorch",
          "--tokenizer",  e.original.string(),
          "--host",       "127.0.0.1",
          "--port",       number(port)};
  if (!is_tensorrt(e)) {
    const std::filesystem::path options = serve.folder / "options.yaml";
    serve.files.push_back({options, options_text(e.c, kServeBatch), {}});
    argv.insert(argv.end(), {"--extra_llm_api_options", options.string()});
  }
  argv.insert(argv.end(),
              {"--max_batch_size", number(kServeBatch), "--max_num_tokens", number(std::max(kEngineTokens, isl)),
               "--max_seq_len", number(total), "--kv_cache_free_gpu_memory_fraction", kMemoryShare});
  add_kv_notes(serve.command, e);
  return serve;
}

}  // namespace qg
