#include "bench/measure.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <map>

#include "bench/arrivals.h"
#include "bench/rate.h"
#include "bench/steady.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/log.h"

namespace qg {
namespace {

double seconds_between(EngineClock::time_point a, EngineClock::time_point b) {
  return std::chrono::duration<double>(b - a).count();
}

int64_t requests_of_round(const Load& w) {
  if (w.arrival == Arrival::together) return w.batch;
  return w.requests > 0 ? w.requests : 2 * std::max<int64_t>(1, w.batch);
}

// A throughput run is long, and its ramp counts: a few requests are enough to load kernels.
int64_t requests_of_warm_up(const Load& w) {
  constexpr int64_t kThroughputWarmUp = 16;
  const int64_t count = requests_of_round(w);
  return w.speed == SpeedKind::throughput ? std::min(count, kThroughputWarmUp) : count;
}

int64_t rounds_of(const Load& w) {
  return w.arrival == Arrival::together ? std::max<int64_t>(1, w.rounds) : 1;
}

// When request i of a round is offered: at once, when a place is free (infinity: decided while running), or at the i-th
// arrival.
class Schedule {
 public:
  Schedule(const Load& load, int64_t count) : load_(load), count_(count) {
    if (load.arrival == Arrival::rate)
      times_ = arrival_times({load.rate_per_s, load.burstiness, load.arrival_seed}, count);
  }
  bool due(int64_t next, int64_t in_flight, double now) const {
    if (next >= count_) return false;
    if (load_.arrival == Arrival::together) return true;
    if (load_.arrival == Arrival::concurrency) return in_flight < load_.batch;
    return times_[static_cast<size_t>(next)] <= now;
  }
  // When request i counts as offered: an arrival when it came, also where a step kept it waiting at the door.
  double offered(int64_t i, double now) const {
    return load_.arrival == Arrival::rate ? times_[static_cast<size_t>(i)] : now;
  }
  // The moment of the next arrival; far away for other loads.
  double next_time(int64_t next) const {
    return next < static_cast<int64_t>(times_.size()) ? times_[static_cast<size_t>(next)] : 1e9;
  }

 private:
  const Load& load_;
  int64_t count_;
  std::vector<double> times_;
};

double span_seconds(const RoundTrace& round) {
  double end = 0;
  for (const RequestTrace& r : round.requests) end = std::max(end, r.last);
  return end;
}

}  // namespace

double tpot_ms(const RequestTrace& r) {
  return (r.last - r.first) * 1e3 / static_cast<double>(r.tokens_out - 1);
}

void count_requests(const RoundTrace& round, BenchResult& result, Latencies& latencies) {
  for (const RequestTrace& r : round.requests) {
    ++result.requests;
    if (!r.error.empty()) {
      ++result.failed;
      if (result.first_error.empty()) result.first_error = r.error;
      continue;
    }
    latencies.ttft.push_back((r.first - r.offered) * 1e3);
    latencies.e2e.push_back((r.last - r.offered) * 1e3);
    if (r.tokens_out > 1) latencies.tpot.push_back(tpot_ms(r));
    for (double g : r.gaps) latencies.itl.push_back(g * 1e3);
  }
}

RoundTrace run_round(LoadTarget& target, const Load& load, int64_t first_index, int64_t count,
                     const std::function<void(int64_t)>& on_token, const std::function<void(int64_t)>& on_offer) {
  RoundTrace round;
  round.requests.resize(static_cast<size_t>(count));
  std::map<int64_t, size_t> place;  // request id -> index
  const Schedule schedule(load, count);
  const auto start = EngineClock::now();
  int64_t next = 0, in_flight = 0;
  const auto on_event = [&](const LoadEvent& event) {
    const auto it = place.find(event.request);
    if (it == place.end()) return;
    RequestTrace& r = round.requests[it->second];
    const double t = seconds_between(start, event.time);
    if (event.tokens > 0) {
      if (r.tokens_out == 0)
        r.first = t;
      else
        r.gaps.push_back(t - r.last);
      r.last = t;
      r.tokens_out += event.tokens;
      for (int64_t i = 0; i < event.tokens; ++i) round.token_times.push_back(t);
      on_token(event.tokens);
    }
    if (event.finished) {
      r.error = event.error;
      if (r.error.empty() && r.tokens_out == 0) r.error = "the request ended without a token";
      --in_flight;
      place.erase(it);
    }
  };
  while (next < count || in_flight > 0) {
    stop_if_interrupted("finished cases stay, this measurement starts again");
    while (schedule.due(next, in_flight, seconds_between(start, EngineClock::now()))) {
      if (on_offer) on_offer(next);
      auto prompt = load_prompt(load, first_index + next, target.vocab());
      round.requests[static_cast<size_t>(next)].offered =
          schedule.offered(next, seconds_between(start, EngineClock::now()));
      place[target.submit(std::move(prompt), load.osl)] = static_cast<size_t>(next);
      ++next;
      ++in_flight;
    }
    const double wait = std::min(1.0, schedule.next_time(next) - seconds_between(start, EngineClock::now()));
    const auto deadline = EngineClock::now() + std::chrono::duration_cast<EngineClock::duration>(
                                                   std::chrono::duration<double>(std::max(0.0, wait)));
    if (!target.poll(deadline, on_event) && in_flight > 0)
      throw Error("the engine lost " + std::to_string(in_flight) + " requests");
  }
  std::sort(round.token_times.begin(), round.token_times.end());
  return round;
}

bool ran_together(const RoundTrace& round, const Load& load) {
  if (load.speed != SpeedKind::decode || load.arrival != Arrival::together || load.osl < 2) return true;
  double last_first = 0, first_last = std::numeric_limits<double>::infinity();
  for (const RequestTrace& r : round.requests) {
    if (!r.error.empty()) continue;
    last_first = std::max(last_first, r.first);
    first_last = std::min(first_last, r.last);
  }
  return last_first <= first_last;
}

double decode_speed(const RoundTrace& round) {
  double last = 0, last_first = 0;
  int64_t tokens = 0;
  for (const RequestTrace& r : round.requests) {
    if (!r.error.empty()) continue;
    last = std::max(last, r.last);
    last_first = std::max(last_first, r.first);
    tokens += r.tokens_out - 1;
  }
  return last > last_first ? static_cast<double>(tokens) / (last - last_first) : 0;
}

double throughput_speed(const RoundTrace& round) {
  const double seconds = span_seconds(round);
  return seconds > 0 ? static_cast<double>(round.token_times.size()) / seconds : 0;
}

Estimate throughput_estimate(const RoundTrace& round) {
  const double seconds = span_seconds(round), value = throughput_speed(round);
  constexpr int kSlices = 10;
  const double begin = 0.1 * seconds, width = 0.8 * seconds / kSlices;
  std::vector<double> slices;
  for (int i = 0; i < kSlices && width > 0; ++i) {
    const auto from = std::lower_bound(round.token_times.begin(), round.token_times.end(), begin + i * width);
    const auto to = std::lower_bound(round.token_times.begin(), round.token_times.end(), begin + (i + 1) * width);
    slices.push_back(static_cast<double>(to - from) / width);
  }
  const Estimate spread = slices.empty() ? Estimate{} : mean(slices);
  // The slices tell the spread; the value is that of the whole run.
  const double half = (spread.ci_hi - spread.ci_lo) / 2;
  return {value, value - half, value + half, static_cast<int64_t>(slices.size())};
}

int64_t total_output_tokens(const Load& w) {
  if (w.window_s > 0) return 0;
  if (w.arrival == Arrival::rate) return open_at_most(w) * w.osl;
  return (requests_of_warm_up(w) + rounds_of(w) * requests_of_round(w)) * w.osl;
}

BenchResult measure(LoadTarget& target, const Load& load, const std::function<void(int64_t)>& on_token,
                    const std::function<void()>& on_start) {
  if (load.window_s > 0) return measure_window(target, load, on_token, on_start);
  if (load.arrival == Arrival::rate) return measure_rate(target, load, on_token, on_start);
  if (load.arrival == Arrival::together && load.batch < 1) throw Error("a batch of no requests cannot be measured");
  const int64_t count = requests_of_round(load);
  run_round(target, load, 0, requests_of_warm_up(load), on_token);
  int64_t index = count;
  target.reset_statistics();
  if (on_start) on_start();
  const double device_before = target.device_seconds();
  const EngineClock::time_point began = EngineClock::now();
  BenchResult result;
  std::vector<double> speeds, prefill;
  Latencies latencies;
  int64_t tokens_in = 0, tokens_out = 0;
  RoundTrace round;
  int64_t apart = 0;
  for (int64_t i = 0; i < rounds_of(load); ++i) {
    round = run_round(target, load, index, count, on_token);
    index += count;
    count_requests(round, result, latencies);
    if (result.failed == result.requests) break;
    result.window_tokens += static_cast<int64_t>(round.token_times.size());
    if (!ran_together(round, load)) {  // once: a client read the replies one after the other; always: see below
      ++apart;
      continue;
    }
    ++result.rounds;
    result.seconds += span_seconds(round);
    tokens_in += count * load.isl;
    tokens_out += static_cast<int64_t>(round.token_times.size());
    double last_first = 0;
    for (const RequestTrace& r : round.requests) last_first = std::max(last_first, r.first);
    if (last_first > 0) prefill.push_back(static_cast<double>(count * load.isl) / last_first);
    speeds.push_back(load.speed == SpeedKind::decode    ? decode_speed(round)
                     : load.speed == SpeedKind::prefill ? prefill.back()
                                                        : throughput_speed(round));
  }
  if (apart > 0 && speeds.empty())
    throw Error(fmt::format("the batch of {} never ran at once: some replies had ended when the last began", count),
                load.name, "the engine runs fewer at a time: give it more memory or places, or take a smaller batch");
  if (apart > 0)
    warn("{}: {} of {} rounds are left out: their replies were not under way at once", load.name, apart,
         rounds_of(load));
  if (speeds.empty()) throw Error("every request failed: " + result.first_error, load.name);
  result.output_tok_s =
      load.speed == SpeedKind::throughput && speeds.size() == 1 ? throughput_estimate(round) : geometric_mean(speeds);
  result.output_tokens = tokens_out;
  result.total_tok_s = static_cast<double>(tokens_in + tokens_out) / result.seconds;
  result.ttft_ms_p50 = quantile(latencies.ttft, 0.5);
  result.ttft_ms_p99 = quantile(latencies.ttft, 0.99);
  if (!latencies.tpot.empty()) result.tpot_ms_p50 = quantile(latencies.tpot, 0.5);
  if (!latencies.itl.empty()) {
    result.itl_ms_p50 = quantile(latencies.itl, 0.5);
    result.itl_ms_p99 = quantile(latencies.itl, 0.99);
  }
  if (load.arrival == Arrival::together && !prefill.empty()) result.prefill_tok_s = geometric_mean(prefill).value;
  result.batch_achieved = target.achieved_batch();
  const double device = target.device_seconds() - device_before;
  if (device > 0) result.device_busy_share = device / seconds_between(began, EngineClock::now());
  result.kernels = target.kernels();
  result.compute_path = target.compute_path();
  return result;
}

}  // namespace qg
