#include "engines/openai_load.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "bench/rate.h"
#include "core/error.h"
#include "core/hash.h"
#include "engines/openai_probe.h"

namespace qg {
namespace {

constexpr int64_t kProbeTokens = 64;
// Text prompts may miss their length by this share (a token at the beginning of text, mostly) before a row is invalid.
constexpr double kPromptShare = 0.05;

struct TimeIsUp {};

EngineMetric metric(const char* name, double value) {
  EngineMetric m;
  m.name = name;
  m.value = value;
  return m;
}

// The figures that the native engine's rows have, and what the client says of itself.
std::vector<EngineMetric> metrics_of(const BenchResult& r, const Load& load, const OpenAiTarget& target,
                                     std::optional<double> prompt_tokens) {
  std::vector<EngineMetric> list;
  EngineMetric speed =
      metric(load.speed == SpeedKind::prefill ? "prefill_tok_s" : "output_tok_s", r.output_tok_s.value);
  if (r.output_tok_s.has_interval()) {
    speed.ci_lo = r.output_tok_s.ci_lo;
    speed.ci_hi = r.output_tok_s.ci_hi;
    speed.ci_level = 0.95;
    speed.ci_method = load.speed == SpeedKind::throughput ? "slices" : "t_log";
  }
  speed.n = r.output_tok_s.n;
  list.push_back(speed);
  for (const LoadFigure& figure : rate_figures(r)) {
    EngineMetric m = metric(std::string(figure.metric).c_str(), figure.value);
    m.n = figure.n;
    if (figure.ci_lo != figure.ci_hi) {
      m.ci_lo = figure.ci_lo;
      m.ci_hi = figure.ci_hi;
      m.ci_level = 0.95;
      m.ci_method = "binomial";
    }
    list.push_back(std::move(m));
  }
  const bool at_rate = load.arrival == Arrival::rate;
  if (!at_rate) {
    list.push_back(metric("ttft_ms_p50", r.ttft_ms_p50));
    list.push_back(metric("ttft_ms_p99", r.ttft_ms_p99));
  }
  if (load.speed != SpeedKind::prefill) {
    list.push_back(metric("total_tok_s", r.total_tok_s));
    if (!at_rate) {
      list.push_back(metric("tpot_ms_p50", r.tpot_ms_p50));
      list.push_back(metric("itl_ms_p99", r.itl_ms_p99));
    }
    list.push_back(metric("output_tokens_mean", static_cast<double>(r.output_tokens) /
                                                    static_cast<double>(std::max<int64_t>(1, r.requests))));
  }
  if (prompt_tokens) list.push_back(metric("prompt_tokens_mean", *prompt_tokens));
  if (r.seconds > 0 && !at_rate)
    list.push_back(metric("requests_s", static_cast<double>(r.requests - r.failed) / r.seconds));
  const OpenAiTarget::Overhead overhead = target.overhead();
  list.push_back(metric("client_lag_ms_p99", overhead.lag_ms_p99));
  list.push_back(metric("client_lag_ms_max", overhead.lag_ms_max));
  list.push_back(metric("client_cpu_share", overhead.cpu_share));
  return list;
}

std::string failures_text(const ClientCounts& counts, const std::string& first) {
  std::string text;
  int64_t all = 0;
  for (const auto& [code, count] : counts.failures) {
    all += count;
    text += fmt::format("{}{} x {}", text.empty() ? "" : ", ", count, code);
  }
  return fmt::format("{} requests failed ({}){}", all, text, first.empty() ? "" : "; the first: " + first);
}

const std::string& commonest(const std::map<std::string, int64_t>& failures) {
  return std::max_element(failures.begin(), failures.end(),
                          [](const auto& a, const auto& b) { return a.second < b.second; })
      ->first;
}

void judge(EngineRun& run, const BenchResult& r, const Load& load, const ClientCounts& counts,
           std::optional<double> prompt_tokens) {
  if (!counts.failures.empty()) {
    const std::string& code = commonest(counts.failures);
    run.status = status_of_failure(code, r.first_error);
    run.error_code = code;
    run.reason = failures_text(counts, r.first_error);
  } else if (counts.short_replies > 0) {
    run.status = CaseStatus::invalid;
    run.error_code = "short_output";
    run.reason =
        fmt::format("{} of {} replies ended before {} tokens: the server heeds neither ignore_eos nor min_tokens",
                    counts.short_replies, r.requests, load.osl);
  } else if (prompt_tokens && std::abs(*prompt_tokens - static_cast<double>(load.isl)) >
                                  std::max(2.0, kPromptShare * static_cast<double>(load.isl))) {
    run.status = CaseStatus::invalid;
    run.error_code = "prompt_length";
    run.reason = fmt::format(
        "the server counts {:.1f} tokens a prompt, the workload has {}; give the model's own "
        "tokenizer",
        *prompt_tokens, load.isl);
  }
}

// Rates over prompt tokens were computed with the workload's; the server may count others.
void count_prompts_as_server(BenchResult& r, const Load& load, double prompt_tokens) {
  const double share = prompt_tokens / static_cast<double>(load.isl);
  if (share == 1) return;
  if (load.speed == SpeedKind::prefill)
    for (double* value : {&r.output_tok_s.value, &r.output_tok_s.ci_lo, &r.output_tok_s.ci_hi}) *value *= share;
  r.prefill_tok_s *= share;
  if (r.seconds > 0)
    r.total_tok_s =
        (prompt_tokens * static_cast<double>(r.requests) + static_cast<double>(r.output_tokens)) / r.seconds;
}

}  // namespace

uint64_t workload_seed(const std::string& workload) {
  return std::stoull(sha256_hex("openai " + workload).substr(0, 12), nullptr, 16);
}

EngineRun measure_server(const ServerAddress& server, const Load& load, const OpenAiLoadOptions& options,
                         BenchResult* result) {
  const auto start = EngineClock::now();
  ClientOptions client;
  client.base = parse_base_url(server.url);
  client.api_key = server.api_key;
  client.connect_timeout_s = options.connect_timeout_s;
  client.stall_timeout_s = options.stall_timeout_s;
  client.request_timeout_s = options.request_timeout_s;
  RequestDialect wanted;
  wanted.model = server.model;
  wanted.chat = options.chat;
  wanted.token_prompts = options.prompts == PromptKind::tokens && !options.chat;
  if (!wanted.token_prompts && !options.text) throw Error("prompts are to be text, but nothing makes text of them");
  if (wanted.token_prompts && server.vocab < 1)
    return failed_run(
        CaseStatus::failed, "no_vocab",
        "the size of the model's vocabulary is not known, so prompts cannot be token ids; use --prompts text");
  const int64_t vocab = server.vocab > 0 ? server.vocab : 1 << 15;  // of text, any numbers will do

  const auto seconds = [&] { return std::chrono::duration<double>(EngineClock::now() - start).count(); };
  const auto finish = [&](EngineRun run) {
    run.seconds = seconds();
    return run;
  };
  // Where even the longest request is short, the server takes none that is longer.
  const int64_t probe_tokens =
      std::clamp<int64_t>(load.isl + load.osl - kProbeOutputTokens, 1, std::min(load.isl, kProbeTokens));
  ServerFacts facts;
  {
    ClientOptions probing = client;
    probing.stall_timeout_s = std::min(client.stall_timeout_s, 60.0);
    try {
      OpenAiClient probe(probing);
      EngineRun asked = probe_server(probe, wanted, probe_tokens, vocab, options.text, facts);
      asked.engine_version = facts.version;
      if (!asked.ok()) return finish(asked);
    } catch (const Error& e) {
      if (e.code() == ExitCode::wrong_input || e.code() == ExitCode::interrupted) throw;
      return finish(failed_run(CaseStatus::failed, "connect", e.what()));
    }
  }

  OpenAiTarget target(client, facts.dialect, vocab, options.text);
  EngineRun run;
  BenchResult r;
  run.engine_version = facts.version;
  run.engine_flags = fmt::format("model {}; {}{}", facts.dialect.model, facts.dialect.describe(),
                                 facts.counts_tokens ? "" : "; tokens counted by pieces of text");
  try {
    r = measure(
        target, load,
        [&](int64_t tokens) {
          if (options.limit_s > 0 && seconds() > options.limit_s) throw TimeIsUp{};
          if (options.on_token) options.on_token(tokens);
        },
        [&] {
          if (options.on_start) options.on_start();
        });
  } catch (const TimeIsUp&) {
    EngineRun late = failed_run(CaseStatus::timeout, "time_limit",
                                fmt::format("the load did not end within {:.0f} s", options.limit_s));
    late.engine_version = run.engine_version;
    late.engine_flags = run.engine_flags;
    return finish(late);
  } catch (const Error& e) {
    if (e.code() == ExitCode::interrupted) throw;
    const auto& failures = target.counts().failures;
    const std::string code = failures.empty() ? "not_measurable" : commonest(failures);
    std::string reason = e.what();
    if (failures.empty()) reason += "; were all tokens of a round read at once? Longer replies can be timed";
    EngineRun failed = failed_run(status_of_failure(code, reason), code, reason);
    failed.engine_version = run.engine_version;
    failed.engine_flags = run.engine_flags;
    return finish(failed);
  }
  const ClientCounts& counts = target.counts();
  std::optional<double> prompt_tokens;
  if (counts.prompts_counted > 0)
    prompt_tokens = static_cast<double>(counts.prompt_tokens) / static_cast<double>(counts.prompts_counted);
  else if (facts.prompt_tokens)  // counted once, by the probe: what it was off by
    prompt_tokens = static_cast<double>(load.isl + *facts.prompt_tokens - probe_tokens);
  if (prompt_tokens) count_prompts_as_server(r, load, *prompt_tokens);
  run.metrics = metrics_of(r, load, target, prompt_tokens);
  run.requests = r.requests;
  run.failed = r.failed;
  run.rounds = r.rounds;
  run.window_s = r.seconds;
  judge(run, r, load, counts, prompt_tokens);
  if (result) *result = r;
  return finish(run);
}

ServedLoad openai_served_load(OpenAiLoadOptions options) {
  return [options = std::move(options)](const ServerAddress& server, const EngineCase&, const Workload& workload) {
    Load load = load_of(workload);
    load.seed = workload_seed(workload.name);
    return measure_server(server, load, options);
  };
}

}  // namespace qg
