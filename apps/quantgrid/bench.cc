// quantgrid bench: one speed measurement of one model.
#include <fmt/format.h>

#include "bench/measure.h"
#include "bench_flags.h"
#include "core/json.h"
#include "core/memory.h"
#include "core/progress.h"
#include "verb.h"

namespace qg {
namespace {

Load load_of_flags(const BenchFlags& flags) {
  Load load;
  load.isl = flags.isl;
  load.osl = flags.osl;
  load.rounds = flags.rounds;
  load.requests = flags.requests;
  if (flags.concurrency > 0) {
    load.arrival = Arrival::concurrency;
    load.batch = flags.concurrency;
    load.speed = SpeedKind::throughput;
    load.name = fmt::format("{}/{} c{}", flags.isl, flags.osl, flags.concurrency);
  } else if (flags.rate > 0) {
    load.arrival = Arrival::rate;
    load.rate_per_s = flags.rate;
    load.speed = SpeedKind::throughput;
    if (load.requests == 0) load.requests = 100;
    load.name = fmt::format("{}/{} at {}/s", flags.isl, flags.osl, flags.rate);
  } else {
    load.batch = std::max<int64_t>(1, flags.batch);
    load.name = fmt::format("decode/b{}", load.batch);
  }
  return load;
}

Json result_json(const BenchResult& r, const Load& load, Executor& executor) {
  Json json;
  json["workload"] = load.name;
  json["output_tok_s"] = r.output_tok_s.value;
  json["ci_lo"] = r.output_tok_s.ci_lo;
  json["ci_hi"] = r.output_tok_s.ci_hi;
  json["rounds"] = r.rounds;
  json["total_tok_s"] = r.total_tok_s;
  json["prefill_tok_s"] = r.prefill_tok_s;
  json["ttft_ms_p50"] = r.ttft_ms_p50;
  json["ttft_ms_p99"] = r.ttft_ms_p99;
  json["tpot_ms_p50"] = r.tpot_ms_p50;
  json["itl_ms_p50"] = r.itl_ms_p50;
  json["itl_ms_p99"] = r.itl_ms_p99;
  json["batch_achieved"] = r.batch_achieved;
  json["device_busy_share"] = r.device_busy_share > 0 ? Json(r.device_busy_share) : Json();
  json["requests"] = r.requests;
  json["failed"] = r.failed;
  json["kernels"] = r.kernels;
  json["compute_path"] = r.compute_path;
  json["roofline_share"] = nullptr;  // a processor's memory bandwidth is not in the card table
  json["executor"] = executor.name();
  json["kv"] = std::string(to_string(executor.kv_format()));
  json["weight_bytes"] = executor.weight_bytes();
  json["kv_pool_bytes"] = executor.kv_pool_bytes();
  json["peak_rss_bytes"] = peak_rss_bytes();
  return json;
}

void print_result(const BenchResult& r, const Load& load, Executor& executor) {
  fmt::print("{}: {} in, {} out, on the {} executor, {}, KV {}\n", load.name, load.isl, load.osl, executor.name(),
             r.compute_path, to_string(executor.kv_format()));
  fmt::print("output          {:.1f} tok/s  (95 %: {:.1f} to {:.1f}; {} rounds)\n", r.output_tok_s.value,
             r.output_tok_s.ci_lo, r.output_tok_s.ci_hi, r.rounds);
  fmt::print("in and out      {:.1f} tok/s\n", r.total_tok_s);
  if (r.prefill_tok_s > 0) fmt::print("prefill         {:.1f} tok/s\n", r.prefill_tok_s);
  fmt::print("first token     {:.1f} ms (p50), {:.1f} ms (p99)\n", r.ttft_ms_p50, r.ttft_ms_p99);
  fmt::print("per token       {:.2f} ms (p50);  gaps {:.2f} ms (p50), {:.2f} ms (p99)\n", r.tpot_ms_p50, r.itl_ms_p50,
             r.itl_ms_p99);
  if (r.device_busy_share > 0) fmt::print("GPU busy        {:.1f} % of the time\n", 100 * r.device_busy_share);
  fmt::print("batch achieved  {:.2f};  {} requests, {} failed\n", r.batch_achieved, r.requests, r.failed);
}

ExitCode run(const BenchFlags& flags) {
  if ((flags.batch > 0) + (flags.concurrency > 0) + (flags.rate > 0) > 1)
    throw Error("--batch, --concurrency and --rate exclude each other", "", "give one of them");
  const Load load = load_of_flags(flags);
  if (flags.behind_server()) return bench_server(flags, load);
  if (flags.engine != "native")
    throw Error("bench measures the native engine and servers", "--engine " + flags.engine,
                "use `quantgrid run GRID --engine " + flags.engine + "`");
  if (flags.model.model.empty()) throw Error("no model is named", "", "add --model DIR");
  Session session(flags.model, synthetic_checkpoint(flags.synthetic, flags.model.model));
  const int64_t in_flight = load.arrival == Arrival::rate ? 64 : load.batch;
  EngineOptions engine_options;
  engine_options.max_batch = flags.max_batch > 0 ? flags.max_batch : in_flight;
  if (session.executor_name() == "cuda") engine_options.prefill_chunk = engine_options.max_rows;
  if (flags.max_rows > 0) engine_options.max_rows = flags.max_rows;
  if (flags.prefill_chunk > 0) engine_options.prefill_chunk = flags.prefill_chunk;
  engine_options.max_rows = std::max(engine_options.max_rows, engine_options.max_batch);
  ExecutorOptions executor_options = session.executor_options();
  // All that is in flight at once; a GPU gives what is left of it where that is less (the engine queues then).
  if (session.executor_name() == "cpu" || flags.max_batch == 0)
    executor_options.num_pages =
        (engine_options.max_batch + 1) * ((flags.isl + flags.osl) / executor_options.page_tokens + 2);
  const auto engine = session.make_engine(engine_options, executor_options);
  NativeTarget target(*engine);
  Progress progress("bench " + load.name, total_output_tokens(load), "tokens");
  const BenchResult result = measure(target, load, [&](int64_t tokens) { progress.advance(tokens); });
  if (flags.json)
    fmt::print("{}\n", result_json(result, load, engine->executor()).dump(2));
  else
    print_result(result, load, engine->executor());
  return result.failed > 0 ? ExitCode::cases_failed : ExitCode::done;
}

const RegisterVerb kVerb(
    {90, "bench", "One speed measurement of one model",
     "quantgrid bench --model models/smollm2-135m-instruct --isl 128 --osl 64 --batch 4",
     [](CLI::App& command) -> std::function<ExitCode()> {
       auto flags = std::make_shared<BenchFlags>();
       declare_model_flags(command, flags->model);
       command.get_option("--model")->required(false);  // a server may have any
       command.add_option("--isl", flags->isl, "tokens in, of each request")->check(CLI::Range(1, 10000000));
       command.add_option("--osl", flags->osl, "tokens out, of each request")->check(CLI::Range(1, 10000000));
       command.add_option("--batch", flags->batch, "requests that start together (decode speed)")
           ->check(CLI::Range(1, 100000));
       command.add_option("--concurrency", flags->concurrency, "requests kept in flight")->check(CLI::Range(1, 100000));
       command.add_option("--rate", flags->rate, "requests per second, Poisson arrivals")->check(CLI::PositiveNumber);
       command.add_option("--requests", flags->requests, "requests in all, with --concurrency or --rate")
           ->check(CLI::Range(1, 10000000));
       command.add_option("--rounds", flags->rounds, "measured rounds after one warm-up")->check(CLI::Range(1, 1000));
       declare_synthetic_flags(command, flags->synthetic);
       command.add_option("--engine", flags->engine, "native, or openai: a server with OpenAI's API at --base-url");
       command.add_option("--vocab", flags->vocab, "with --engine openai: token ids are drawn from below this")
           ->check(CLI::Range(1024, 1 << 22));
       declare_server_flags(command, flags->server);
       command.add_option("--max-batch", flags->max_batch, "most sequences running at once (default: all in flight)")
           ->check(CLI::Range(1, 100000));
       command.add_option("--max-rows", flags->max_rows, "most tokens in one step")->check(CLI::Range(1, 1000000));
       command.add_option("--prefill-chunk", flags->prefill_chunk, "most prompt tokens of one sequence in a step")
           ->check(CLI::Range(1, 1000000));
       command.add_flag("--json", flags->json, "print JSON");
       return [flags] { return run(*flags); };
     }});

}  // namespace
}  // namespace qg
