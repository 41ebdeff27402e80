#include "engines/run_figures.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "bench/statistics.h"

namespace qg {
namespace {

constexpr double kLengthShare = 0.02;
constexpr double kTextLengthShare =
    0.08;  // vLLM's random prompts are text, and come back some tokens longer or shorter
constexpr double kLeastBatchShare = 0.85;  // ramps between rounds take some

void add(EngineRun& run, const char* name, std::optional<double> value, std::optional<int64_t> n = {}) {
  if (value) run.metrics.push_back({name, *value, n});
}

void add_rounds(EngineRun& run, const char* name, const std::vector<double>& speeds) {
  const Estimate e = geometric_mean(speeds);
  EngineMetric metric{name, e.value, e.n};
  if (e.n > 1) {
    metric.ci_lo = e.ci_lo;
    metric.ci_hi = e.ci_hi;
    metric.ci_level = 0.95;
    metric.ci_method = "t_log";
  }
  run.metrics.push_back(metric);
}

void spoil(EngineRun& run, const char* code, std::string reason) {
  run.status = CaseStatus::invalid;
  run.error_code = code;
  run.reason = std::move(reason);
}

bool differs(double measured, double asked, double share = kLengthShare) {
  return std::abs(measured - asked) > share * asked + 1;
}

}  // namespace

void take_trtllm_report(const EngineReport& r, const Workload& w, EngineRun& run) {
  run.requests = r.requests;
  run.batch_achieved = r.concurrent;
  run.window_s = r.seconds;
  const int64_t osl = w.kind == WorkloadKind::prefill ? 1 : w.osl_tokens;
  if (r.mean_isl && r.mean_osl &&
      (differs(*r.mean_isl, static_cast<double>(w.isl_tokens)) || differs(*r.mean_osl, static_cast<double>(osl))))
    return spoil(run, "wrong_lengths",
                 fmt::format("asked for {} tokens in and {} out, the report has {:.1f} and {:.1f} on average",
                             w.isl_tokens, osl, *r.mean_isl, *r.mean_osl));
  switch (w.kind) {
    case WorkloadKind::decode:
      if (!r.decode_tok_s_per_request)
        return spoil(run, "no_streaming", "the report has no times of tokens (streaming_metrics)");
      // Requests of a batch run side by side: together they make what each makes, times their number.
      add(run, "output_tok_s", *r.decode_tok_s_per_request * static_cast<double>(w.batch), r.requests);
      add(run, "total_tok_s", r.total_tok_s);
      run.rounds = w.rounds;
      break;
    case WorkloadKind::throughput:
      add(run, "output_tok_s", r.output_tok_s, r.requests);
      add(run, "total_tok_s", r.total_tok_s);
      break;
    case WorkloadKind::prefill:
      if (r.requests_s) add(run, "prefill_tok_s", *r.requests_s * static_cast<double>(w.isl_tokens), r.requests);
      add(run, "ttft_ms_p50", r.e2e_ms_p50, r.requests);  // the one token is the first
      add(run, "ttft_ms_p99", r.e2e_ms_p99, r.requests);
      run.rounds = w.rounds;
      break;
    case WorkloadKind::rate:
      return spoil(run, "no_rate", "the engine's benchmark offers no requests at a rate");
  }
  add(run, "requests_s", r.requests_s, r.requests);
  if (w.kind != WorkloadKind::prefill) {
    add(run, "ttft_ms_p50", r.ttft_ms_p50, r.requests);
    add(run, "ttft_ms_p90", r.ttft_ms_p90, r.requests);
    add(run, "ttft_ms_p99", r.ttft_ms_p99, r.requests);
    add(run, "tpot_ms_p50", r.tpot_ms_p50, r.requests);
    add(run, "tpot_ms_p99", r.tpot_ms_p99, r.requests);
    add(run, "e2e_ms_p50", r.e2e_ms_p50, r.requests);
    add(run, "e2e_ms_p99", r.e2e_ms_p99, r.requests);
    add(run, "batch_achieved", r.concurrent);
  }
  if (w.kind == WorkloadKind::decode && r.concurrent && *r.concurrent < kLeastBatchShare * static_cast<double>(w.batch))
    spoil(run, "batch_not_reached",
          fmt::format("{} requests were to run at once, {:.2f} did on average", w.batch, *r.concurrent));
}

void take_vllm_report(const EngineReport& total, const EngineReport* first, const Workload& w, EngineRun& run) {
  const double batch = static_cast<double>(w.batch);
  if (w.kind == WorkloadKind::throughput) {
    run.requests = total.requests;
    run.window_s = total.seconds;
    const double requests = static_cast<double>(*total.requests);
    // EOS is ignored, so that each request gives what was asked for; the prompts' share is what is left.
    add(run, "output_tok_s", requests * static_cast<double>(w.osl_tokens) / *total.seconds, total.requests);
    add(run, "total_tok_s", total.total_tok_s);
    add(run, "requests_s", total.requests_s, total.requests);
    const double mean_isl = *total.total_tok_s * *total.seconds / requests - static_cast<double>(w.osl_tokens);
    if (differs(mean_isl, static_cast<double>(w.isl_tokens), kTextLengthShare))
      spoil(run, "wrong_lengths",
            fmt::format("asked for {} tokens in and {} out, the report's total leaves {:.1f} in on average",
                        w.isl_tokens, w.osl_tokens, mean_isl));
    return;
  }
  run.rounds = static_cast<int64_t>(total.round_seconds.size());
  run.requests = *run.rounds * w.batch;
  run.batch_achieved = batch;
  std::vector<double> speeds;
  if (w.kind == WorkloadKind::prefill || w.osl_tokens <= 1) {
    for (double seconds : total.round_seconds) speeds.push_back(batch * static_cast<double>(w.isl_tokens) / seconds);
    add_rounds(run, "prefill_tok_s", speeds);
    add(run, "ttft_ms_p50", quantile(total.round_seconds, 0.5) * 1e3, run.rounds);
    return;
  }
  if (!first) return spoil(run, "no_first_token", "the run with one token out is missing");
  const double to_first = mean(first->round_seconds).value;
  const double steps = static_cast<double>(w.osl_tokens - 1);
  for (double seconds : total.round_seconds) {
    if (seconds <= to_first)
      return spoil(run, "no_decoding_time",
                   fmt::format("a round with {} tokens took {:.4f} s, no longer than one with one token ({:.4f} s)",
                               w.osl_tokens, seconds, to_first));
    speeds.push_back(batch * steps / (seconds - to_first));
  }
  add_rounds(run, "output_tok_s", speeds);
  const double round = quantile(total.round_seconds, 0.5);
  add(run, "total_tok_s", batch * static_cast<double>(w.isl_tokens + w.osl_tokens) / round, run.rounds);
  add(run, "ttft_ms_p50", quantile(first->round_seconds, 0.5) * 1e3, static_cast<int64_t>(first->round_seconds.size()));
  add(run, "tpot_ms_p50", (round - to_first) / steps * 1e3, run.rounds);
  add(run, "e2e_ms_p50", round * 1e3, run.rounds);
  add(run, "batch_achieved", batch);
}

}  // namespace qg
