#include "bench/rate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "grid/grid.h"

namespace qg {
namespace {

constexpr int64_t kLeastForP99 = 300;  // at least one beyond it, with 95 % probability

Percentiles percentiles(const std::vector<double>& values) {
  if (values.empty()) return {};
  return {quantile(values, 0.5), quantile(values, 0.9), quantile(values, 0.99), static_cast<int64_t>(values.size())};
}

// Wilson's interval of a share, 95 %.
Estimate share_of(int64_t good, int64_t all) {
  const double n = static_cast<double>(all), p = static_cast<double>(good) / n, z = 1.959964;
  const double middle = (p + z * z / (2 * n)) / (1 + z * z / n);
  const double half = z * std::sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n);
  return {p, std::max(0.0, middle - half), std::min(1.0, middle + half), all};
}

}  // namespace

RoundTrace counted_part(const RoundTrace& all, int64_t warm_up) {
  RoundTrace part;
  part.requests.assign(all.requests.begin() + warm_up, all.requests.end());
  if (part.requests.empty()) return part;
  const double start = part.requests.front().offered;
  for (RequestTrace& r : part.requests) {
    r.offered -= start;
    r.first -= start;
    r.last -= start;
    if (r.tokens_out == 0) continue;
    double t = r.first;
    part.token_times.push_back(t);
    for (double gap : r.gaps) part.token_times.push_back(t += gap);
    // Tokens that came together with one before are in tokens_out, but have no gap.
    for (auto more = static_cast<int64_t>(r.gaps.size()) + 1; more < r.tokens_out; ++more)
      part.token_times.push_back(r.last);
  }
  std::sort(part.token_times.begin(), part.token_times.end());
  return part;
}

Goodput goodput_of(const RoundTrace& round, const Load& load, double seconds) {
  Goodput g;
  for (const RequestTrace& r : round.requests) {
    if (!r.error.empty()) continue;
    if (load.max_ttft_ms > 0 && (r.first - r.offered) * 1e3 > load.max_ttft_ms) continue;
    if (load.max_tpot_ms > 0 && r.tokens_out > 1 && tpot_ms(r) > load.max_tpot_ms) continue;
    ++g.good;
  }
  g.share = share_of(g.good, static_cast<int64_t>(round.requests.size()));
  g.requests_s = seconds > 0 ? static_cast<double>(g.good) / seconds : 0;
  return g;
}

BenchResult measure_rate(LoadTarget& target, const Load& load, const std::function<void(int64_t)>& on_token,
                         const std::function<void()>& on_start) {
  if (load.requests < 1) throw Error("a load of no requests cannot be measured", load.name);
  const int64_t warm_up = rate_warm_up(load.requests);
  BenchResult result;
  bool counting = false;
  double device_before = 0;
  EngineClock::time_point began;
  const RoundTrace all = run_round(
      target, load, 0, warm_up + load.requests,
      [&](int64_t tokens) {
        if (counting) result.window_tokens += tokens;
        on_token(tokens);
      },
      [&](int64_t next) {
        if (next != warm_up) return;
        counting = true;
        target.reset_statistics();
        if (on_start) on_start();
        device_before = target.device_seconds();
        began = EngineClock::now();
      });
  const double device = target.device_seconds() - device_before;
  if (device > 0) result.device_busy_share = device / std::chrono::duration<double>(EngineClock::now() - began).count();

  const RoundTrace round = counted_part(all, warm_up);
  Latencies latencies;
  count_requests(round, result, latencies);
  for (const RequestTrace& r : round.requests)
    if (r.error.empty()) result.seconds = std::max(result.seconds, r.last);
  if (result.failed == result.requests) throw Error("every request failed: " + result.first_error, load.name);
  result.rounds = 1;
  result.output_tok_s = throughput_estimate(round);
  result.output_tokens = static_cast<int64_t>(round.token_times.size());
  result.total_tok_s =
      static_cast<double>((result.requests - result.failed) * load.isl + result.output_tokens) / result.seconds;
  result.ttft_ms = percentiles(latencies.ttft);
  result.tpot_ms = percentiles(latencies.tpot);
  result.itl_ms = percentiles(latencies.itl);
  result.e2e_ms = percentiles(latencies.e2e);
  result.ttft_ms_p50 = result.ttft_ms.p50;
  result.ttft_ms_p99 = result.ttft_ms.p99;
  result.tpot_ms_p50 = result.tpot_ms.p50;
  result.itl_ms_p50 = result.itl_ms.p50;
  result.itl_ms_p99 = result.itl_ms.p99;
  if (load.max_ttft_ms > 0 || load.max_tpot_ms > 0) result.goodput = goodput_of(round, load, result.seconds);
  result.batch_achieved = target.achieved_batch();
  result.kernels = target.kernels();
  result.compute_path = target.compute_path();
  return result;
}

std::vector<LoadFigure> rate_figures(const BenchResult& r) {
  std::vector<LoadFigure> list;
  if (r.ttft_ms.n == 0) return list;  // another load
  const auto add = [&](const Percentiles& p, std::string_view p50, std::string_view p90, std::string_view p99) {
    if (p.n == 0) return;
    list.push_back({p50, p.p50, p.n});
    list.push_back({p90, p.p90, p.n});
    if (p.n >= kLeastForP99) list.push_back({p99, p.p99, p.n});
  };
  add(r.ttft_ms, "ttft_ms_p50", "ttft_ms_p90", "ttft_ms_p99");
  add(r.tpot_ms, "tpot_ms_p50", "tpot_ms_p90", "tpot_ms_p99");
  add(r.itl_ms, "itl_ms_p50", "itl_ms_p90", "itl_ms_p99");
  add(r.e2e_ms, "e2e_ms_p50", "e2e_ms_p90", "e2e_ms_p99");
  if (r.seconds > 0)
    list.push_back({"requests_s", static_cast<double>(r.requests - r.failed) / r.seconds, r.requests - r.failed});
  if (r.goodput) {
    list.push_back({"goodput_requests_s", r.goodput->requests_s, r.requests});
    list.push_back(
        {"goodput_share", r.goodput->share.value, r.requests, r.goodput->share.ci_lo, r.goodput->share.ci_hi});
  }
  return list;
}

std::optional<double> shown_p99(const BenchResult& result, const Load& load, std::string_view metric, double value) {
  if (load.arrival != Arrival::rate) return value;
  for (const LoadFigure& figure : rate_figures(result))
    if (figure.metric == metric) return figure.value;
  return {};
}

std::string p99_text(const BenchResult& result, const Load& load, std::string_view metric, double value, int digits) {
  const std::optional<double> shown = shown_p99(result, load, metric, value);
  return shown ? fmt::format("{:.{}f} ms", *shown, digits) : "too few requests for a";
}

std::string describe_arrivals(const Load& load) {
  std::string text =
      load.burstiness == 1 ? "Poisson arrivals" : fmt::format("arrivals of burstiness {}", load.burstiness);
  text += fmt::format(" at {} requests/s, seed {}; {} more before them are not counted", load.rate_per_s,
                      load.arrival_seed, rate_warm_up(load.requests));
  if (load.max_ttft_ms > 0) text += fmt::format("; good: TTFT at most {} ms", load.max_ttft_ms);
  if (load.max_tpot_ms > 0)
    text += fmt::format("{} TPOT at most {} ms", load.max_ttft_ms > 0 ? "," : "; good:", load.max_tpot_ms);
  return text;
}

}  // namespace qg
