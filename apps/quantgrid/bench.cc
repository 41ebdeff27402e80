// quantgrid bench: one speed measurement of one model.
#include <fmt/format.h>

#include "bench/gpu_window.h"
#include "bench/measure.h"
#include "bench/rate.h"
#include "bench_flags.h"
#include "card_here.h"
#include "core/json_text.h"
#include "core/memory.h"
#include "core/progress.h"
#include "grid/roofline.h"
#include "runtime/device_probe.h"
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
    load.window_s = flags.window_s;
    load.name = fmt::format("{}/{} c{}", flags.isl, flags.osl, flags.concurrency);
  } else if (flags.rate > 0) {
    load.arrival = Arrival::rate;
    load.rate_per_s = flags.rate;
    load.burstiness = flags.burstiness;
    load.arrival_seed = flags.seed;
    load.max_ttft_ms = flags.max_ttft_ms;
    load.max_tpot_ms = flags.max_tpot_ms;
    load.speed = SpeedKind::throughput;
    if (load.requests == 0) load.requests = 100;
    load.name = fmt::format("{}/{} at {}/s", flags.isl, flags.osl, flags.rate);
  } else {
    load.batch = std::max<int64_t>(1, flags.batch);
    load.name = fmt::format("decode/b{}", load.batch);
    if (load.osl == 1) {  // nothing is decoded
      load.speed = SpeedKind::prefill;
      load.name = fmt::format("prefill/{}", load.isl);
    }
  }
  return load;
}

// What is told beside the speed itself.
struct Run {
  double load_seconds = 0;                            // to make the executor: weights read, repacked, memory taken
  double ready_seconds = 0, first_token_seconds = 0;  // since the process was started
  GpuUse gpu;
  std::optional<double> roofline_share;
};

template <class T>
Json or_null(const std::optional<T>& value) {
  return value ? Json(*value) : Json();
}

Json result_json(const BenchResult& r, const Load& load, Executor& executor, const Run& run) {
  Json json;
  json["workload"] = load.name;
  json["method"] = load.window_s > 0               ? fmt::format("steady window of {} s", load.window_s)
                   : load.arrival == Arrival::rate ? describe_arrivals(load)
                                                   : "whole run";
  json["output_tok_s"] = load.speed == SpeedKind::prefill ? Json() : Json(r.output_tok_s.value);
  json["ci_lo"] = r.output_tok_s.has_interval() ? Json(r.output_tok_s.ci_lo) : Json();
  json["ci_hi"] = r.output_tok_s.has_interval() ? Json(r.output_tok_s.ci_hi) : Json();
  json["rounds"] = r.rounds;
  json["total_tok_s"] = r.total_tok_s;
  json["prefill_tok_s"] = r.prefill_tok_s;
  json["ttft_ms_p50"] = load.window_s > 0 ? Json() : Json(r.ttft_ms_p50);
  json["ttft_ms_p99"] = load.window_s > 0 ? Json() : or_null(shown_p99(r, load, "ttft_ms_p99", r.ttft_ms_p99));
  json["tpot_ms_p50"] = r.tpot_ms_p50;
  json["itl_ms_p50"] = r.itl_ms_p50;
  json["itl_ms_p99"] = or_null(shown_p99(r, load, "itl_ms_p99", r.itl_ms_p99));
  json["batch_achieved"] = r.batch_achieved;
  json["device_busy_share"] = r.device_busy_share > 0 ? Json(r.device_busy_share) : Json();
  json["seconds"] = r.seconds;
  json["output_tokens"] = r.output_tokens;
  for (const LoadFigure& figure : rate_figures(r)) json[std::string(figure.metric)] = figure.value;
  json["requests"] = r.requests;
  json["failed"] = r.failed;
  json["kernels"] = r.kernels;
  json["compute_path"] = r.compute_path;
  json["roofline_share"] = or_null(run.roofline_share);  // none for a processor: its bandwidth is not in the card table
  json["load_seconds"] = run.load_seconds;
  json["ready_seconds"] = run.ready_seconds;
  json["first_token_seconds"] = run.first_token_seconds;
  json["energy_j"] = or_null(run.gpu.energy_j);
  json["power_w_mean"] = or_null(run.gpu.power_w_mean);
  json["power_w_max"] = or_null(run.gpu.power_w_max);
  json["sm_mhz_mean"] = or_null(run.gpu.sm_mhz_mean);
  json["temperature_c_max"] = or_null(run.gpu.temperature_c_max);
  json["peak_gpu_bytes"] = or_null(run.gpu.memory_bytes_max);
  json["executor"] = executor.name();
  json["kv"] = std::string(to_string(executor.kv_format()));
  json["weight_bytes"] = executor.weight_bytes();
  json["kv_pool_bytes"] = executor.kv_pool_bytes();
  json["peak_rss_bytes"] = peak_rss_bytes();
  return json;
}

void print_result(const BenchResult& r, const Load& load, Executor& executor, const Run& run) {
  fmt::print("{}: {} in, {} out, on the {} executor, {}, KV {}\n", load.name, load.isl, load.osl, executor.name(),
             r.compute_path, to_string(executor.kv_format()));
  const bool prefill = load.speed == SpeedKind::prefill;
  fmt::print("{}         {}\n", prefill ? "prefill" : "output ", speed_text(r.output_tok_s, r.rounds));
  fmt::print("in and out      {:.1f} tok/s\n", r.total_tok_s);
  if (r.prefill_tok_s > 0 && !prefill) fmt::print("prefill         {:.1f} tok/s\n", r.prefill_tok_s);
  if (load.window_s > 0)
    fmt::print("method          steady window of {} s, requests started at random depths\n", load.window_s);
  else
    fmt::print("first token     {:.1f} ms (p50), {} (p99)\n", r.ttft_ms_p50,
               p99_text(r, load, "ttft_ms_p99", r.ttft_ms_p99, 1));
  if (!prefill)
    fmt::print("per token       {:.2f} ms (p50);  gaps {:.2f} ms (p50), {} (p99)\n", r.tpot_ms_p50, r.itl_ms_p50,
               p99_text(r, load, "itl_ms_p99", r.itl_ms_p99, 2));
  if (r.device_busy_share > 0) fmt::print("GPU busy        {:.1f} % of the time\n", 100 * r.device_busy_share);
  if (run.roofline_share) fmt::print("of the roofline {:.1f} %\n", 100 * *run.roofline_share);
  if (r.goodput)
    fmt::print("good            {:.2f} requests/s, {:.1f} % of them (95 %: {:.1f} to {:.1f})\n", r.goodput->requests_s,
               100 * r.goodput->share.value, 100 * r.goodput->share.ci_lo, 100 * r.goodput->share.ci_hi);
  if (run.gpu.energy_j && r.window_tokens > 0)
    fmt::print("energy          {:.3f} J an output token; {:.0f} W mean\n",
               *run.gpu.energy_j / static_cast<double>(r.window_tokens), run.gpu.power_w_mean.value_or(0));
  fmt::print("batch achieved  {:.2f};  {} requests, {} failed\n", r.batch_achieved, r.requests, r.failed);
  fmt::print("loaded in       {:.1f} s; the first token {:.1f} s after the start\n", run.load_seconds,
             run.first_token_seconds);
}

std::optional<double> roofline_share(const Session& session, const Load& load, const BenchResult& r) {
  const Card* card = session.executor_name() == "cuda" ? card_here(session.device()) : nullptr;
  if (!card || load.speed == SpeedKind::prefill) return {};
  const WeightFormat weights = session.checkpoint()->quant().weights;
  const std::optional<double> limit =
      load.speed == SpeedKind::decode
          ? decode_tok_s(session.shape(), *card, weights, session.kv(), load.batch,
                         static_cast<double>(load.isl) + static_cast<double>(load.osl) / 2)
          : load_tok_s(session.shape(), *card, weights, session.kv(), r.batch_achieved, load.isl, load.osl);
  if (!limit) return {};
  return r.output_tok_s.value / *limit;
}

void check_flags(const BenchFlags& flags) {
  if ((flags.batch > 0) + (flags.concurrency > 0) + (flags.rate > 0) > 1)
    throw Error("--batch, --concurrency and --rate exclude each other", "", "give one of them");
  if (flags.window_s > 0 && flags.behind_server())
    throw Error("a steady window is measured in this process alone", "--window",
                "leave it out, or --served and --engine");
  if (flags.window_s > 0 && (flags.concurrency == 0 || flags.requests > 0))
    throw Error("--window measures a steady state: it wants --concurrency, and no --requests", "--window",
                "for example --concurrency 256 --window 60");
}

ExitCode run(const BenchFlags& flags) {
  check_flags(flags);
  const Load load = load_of_flags(flags);
  if (flags.behind_server()) return bench_server(flags, load);
  if (flags.engine != "native")
    throw Error("bench measures the native engine and servers", "--engine " + flags.engine,
                "use `quantgrid run GRID --engine " + flags.engine + "`");
  if (flags.model.model.empty()) throw Error("no model is named", "", "add --model DIR");
  Session session(flags.model, synthetic_checkpoint(flags.synthetic, flags.model.model));
  const bool cuda = session.executor_name() == "cuda";
  const int64_t in_flight = running_at_once(load, cuda);
  EngineOptions engine_options;
  engine_options.max_batch = flags.max_batch > 0 ? flags.max_batch : in_flight;
  engine_options.max_rows = flags.max_rows > 0 ? flags.max_rows : rows_of_step(load, cuda);
  if (cuda) engine_options.prefill_chunk = engine_options.max_rows;
  if (flags.prefill_chunk > 0) engine_options.prefill_chunk = flags.prefill_chunk;
  engine_options.max_rows = std::max(engine_options.max_rows, engine_options.max_batch);
  ExecutorOptions executor_options = session.executor_options();
  // All that is in flight at once; a GPU gives what is left of it where that is less (the engine queues then).
  // Decoding and a window are measured with all of them running.
  executor_options.less_kv_will_do = load.window_s == 0 && load.speed == SpeedKind::throughput;
  if (!cuda || flags.max_batch == 0)
    executor_options.num_pages =
        (engine_options.max_batch + 1) * ((flags.isl + flags.osl) / executor_options.page_tokens + 2);
  Run told;
  const double before = process_seconds();
  const auto engine = session.make_engine(engine_options, executor_options, flags.isl + flags.osl);
  if (load.window_s > 0 && engine->options().max_batch < load.batch)
    throw Error(
        fmt::format("{} are to run at once, and the KV cache has room for {}", load.batch, engine->options().max_batch),
        "--concurrency", "take fewer", ExitCode::cannot_here);
  told.ready_seconds = process_seconds();
  told.load_seconds = told.ready_seconds - before;
  NativeTarget target(*engine);
  const GpuMeter meter(cuda ? device_uuid(session.device()) : "");
  std::optional<GpuWindow> window;
  Progress progress("bench " + load.name, total_output_tokens(load), "tokens");
  const BenchResult result = measure(
      target, load,
      [&](int64_t tokens) {
        if (told.first_token_seconds == 0) told.first_token_seconds = process_seconds();
        progress.advance(tokens);
      },
      [&] {
        if (cuda) window.emplace([&] { return meter.read(); });
      });
  if (window) told.gpu = window->stop();
  told.roofline_share = roofline_share(session, load, result);
  if (flags.json)
    fmt::print("{}\n", json_text(result_json(result, load, engine->executor(), told), 2));
  else
    print_result(result, load, engine->executor(), told);
  return result.failed > 0 ? ExitCode::cases_failed : ExitCode::done;
}

void declare_rate_flags(CLI::App& command, BenchFlags& flags) {
  auto* rate = command.add_option("--rate", flags.rate, "requests per second that arrive, whatever the engine does")
                   ->check(CLI::Range(1e-3, 1e6));
  command.add_option("--burstiness", flags.burstiness, "of arrivals: 1 Poisson, below 1 burstier, above 1 more even")
      ->check(CLI::Range(0.01, 100.0))
      ->needs(rate)
      ->capture_default_str();
  command.add_option("--seed", flags.seed, "of the moments of arrival")->needs(rate)->capture_default_str();
  command.add_option("--max-ttft", flags.max_ttft_ms, "ms to the first token within which a request counts as good")
      ->check(CLI::PositiveNumber)
      ->needs(rate);
  command.add_option("--max-tpot", flags.max_tpot_ms, "ms a later token within which a request counts as good")
      ->check(CLI::PositiveNumber)
      ->needs(rate);
}

const RegisterVerb kVerb(
    {90, "bench", "One speed measurement of one model",
     "quantgrid bench --model models/smollm2-135m-instruct --isl 128 --osl 64 --batch 4",
     [](CLI::App& command) -> std::function<ExitCode()> {
       auto flags = std::make_shared<BenchFlags>();
       declare_model_flags(command, flags->model);
       command.get_option("--model")->required(false);  // a server may have any
       command.add_option("--isl", flags->isl, "tokens in, of each request")
           ->check(CLI::Range(1, 10000000))
           ->capture_default_str();
       command.add_option("--osl", flags->osl, "tokens out, of each request")
           ->check(CLI::Range(1, 10000000))
           ->capture_default_str();
       command.add_option("--batch", flags->batch, "requests that start together (decode speed; default 1)")
           ->check(CLI::Range(1, 100000));
       auto* concurrency = command.add_option("--concurrency", flags->concurrency, "requests kept in flight")
                               ->check(CLI::Range(1, 100000));
       declare_rate_flags(command, *flags);
       command
           .add_option("--requests", flags->requests,
                       "requests, with --concurrency (default: twice as many) or --rate (default 100)")
           ->check(CLI::Range(1, 10000000));
       command.add_option("--rounds", flags->rounds, "with --batch: measured rounds after one warm-up")
           ->check(CLI::Range(1, 1000))
           ->excludes(concurrency)
           ->excludes(command.get_option("--rate"))
           ->capture_default_str();
       command
           .add_option("--window", flags->window_s,
                       "with --concurrency: measure a steady state of this many seconds, requests started at random "
                       "depths")
           ->check(CLI::Range(1.0, 86400.0));
       declare_synthetic_flags(command, flags->synthetic);
       command.add_option("--engine", flags->engine, "native, or openai: a server with OpenAI's API at --base-url")
           ->capture_default_str();
       command.add_option("--vocab", flags->vocab, "with --engine openai: token ids are drawn from below this")
           ->check(CLI::Range(1024, 1 << 22));
       declare_server_flags(command, flags->server);
       command.add_option("--max-batch", flags->max_batch, "most sequences running at once (default: all in flight)")
           ->check(CLI::Range(1, 100000));
       command
           .add_option("--max-rows", flags->max_rows,
                       "most tokens in one step (default 2048; on a GPU 4096 for throughput)")
           ->check(CLI::Range(1, 1000000));
       command
           .add_option("--prefill-chunk", flags->prefill_chunk,
                       "most prompt tokens of one sequence in a step (default 512; on a GPU --max-rows)")
           ->check(CLI::Range(1, 1000000));
       command.add_flag("--json", flags->json, "print JSON");
       return [flags] { return run(*flags); };
     }});

}  // namespace
}  // namespace qg
