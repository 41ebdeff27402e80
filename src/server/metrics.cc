#include "server/metrics.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <numeric>

#include "core/memory.h"
#include "core/version.h"

namespace qg {
namespace {

// The head of a metric; values follow, a line each.
void head(std::string& out, const std::string& name, const char* type, const std::string& what) {
  fmt::format_to(std::back_inserter(out), "# HELP {0} {1}\n# TYPE {0} {2}\n", name, what, type);
}

template <typename Value>
void single(std::string& out, const std::string& name, const char* type, const std::string& what, Value value) {
  head(out, name, type, what);
  fmt::format_to(std::back_inserter(out), "{} {}\n", name, value);
}

}  // namespace

std::string escaped_label(const std::string& value) {
  std::string out;
  for (const char c : value) {
    if (c == '\\' || c == '"') out += '\\';
    out += c == '\n' ? std::string("\\n") : std::string(1, c);
  }
  return out;
}

void Histogram::observe(double seconds) {
  const auto bucket = std::ranges::lower_bound(bounds_, seconds) - bounds_.begin();
  ++counts_[static_cast<size_t>(bucket)];
  sum_ += seconds;
}

int64_t Histogram::count() const {
  return std::accumulate(counts_.begin(), counts_.end(), int64_t{0});
}

std::string Histogram::text(const std::string& name, const std::string& what) const {
  std::string out;
  head(out, name, "histogram", what);
  int64_t so_far = 0;
  for (size_t i = 0; i < counts_.size(); ++i) {
    so_far += counts_[i];
    const std::string bound = i < bounds_.size() ? fmt::format("{}", bounds_[i]) : "+Inf";
    fmt::format_to(std::back_inserter(out), "{}_bucket{{le=\"{}\"}} {}\n", name, bound, so_far);
  }
  fmt::format_to(std::back_inserter(out), "{0}_sum {1}\n{0}_count {2}\n", name, sum_, so_far);
  return out;
}

void SpeedWindow::sample(EngineClock::time_point now, const EngineStats& stats, double busy_seconds) {
  samples_.push_back({now, stats.decode_tokens, stats.steps, stats.batch_sum, busy_seconds});
  while (samples_.size() > 2 && now - samples_[1].time >= kLength) samples_.pop_front();
}

double SpeedWindow::output_tok_s() const {
  if (samples_.size() < 2) return 0;
  const double seconds = std::chrono::duration<double>(samples_.back().time - samples_.front().time).count();
  return seconds > 0 ? static_cast<double>(samples_.back().decode_tokens - samples_.front().decode_tokens) / seconds
                     : 0;
}

double SpeedWindow::mean_batch() const {
  if (samples_.size() < 2) return 0;
  const int64_t steps = samples_.back().steps - samples_.front().steps;
  const int64_t sequences = samples_.back().batch_sum - samples_.front().batch_sum;
  return steps > 0 ? static_cast<double>(sequences) / static_cast<double>(steps) : 0;
}

std::optional<double> SpeedWindow::roofline_share(const RooflineTokensPerSecond& roofline,
                                                  double context_tokens) const {
  if (!roofline || samples_.size() < 2) return {};
  const double busy = samples_.back().busy_seconds - samples_.front().busy_seconds, batch = mean_batch();
  if (busy <= 0 || batch <= 0) return 0;
  const std::optional<double> allowed = roofline(batch, context_tokens);
  if (!allowed || *allowed <= 0) return {};
  return static_cast<double>(samples_.back().decode_tokens - samples_.front().decode_tokens) / busy / *allowed;
}

std::string metrics_text(const ServerMetrics& metrics, const EngineView& engine,
                         const RooflineTokensPerSecond& roofline) {
  const EngineStats& stats = engine.stats;
  std::string out;
  head(out, "quantgrid_info", "gauge", "What is served; always 1.");
  fmt::format_to(std::back_inserter(out), "quantgrid_info{{version=\"{}\",model=\"{}\",kv=\"{}\"}} 1\n", version(),
                 escaped_label(engine.model), engine.kv);
  head(out, "quantgrid_http_requests_total", "counter", "Requests answered, by path and status.");
  for (const auto& [key, count] : metrics.http_requests)
    fmt::format_to(std::back_inserter(out), "quantgrid_http_requests_total{{path=\"{}\",code=\"{}\"}} {}\n",
                   escaped_label(key.first), key.second, count);
  head(out, "quantgrid_choices_finished_total", "counter", "Choices that ended, by reason.");
  for (const auto& [reason, count] : metrics.finished)
    fmt::format_to(std::back_inserter(out), "quantgrid_choices_finished_total{{reason=\"{}\"}} {}\n", reason, count);

  single(out, "quantgrid_requests_waiting", "gauge", "Sequences in the engine's queue.", stats.waiting);
  single(out, "quantgrid_requests_running", "gauge", "Sequences in the running batch.", stats.running);
  single(out, "quantgrid_batch_size", "gauge", "Mean sequences a step over the last 10 seconds.",
         metrics.speed.mean_batch());
  single(out, "quantgrid_kv_pages", "gauge", "Pages of the KV cache.", stats.pages_total);
  single(out, "quantgrid_kv_pages_used", "gauge", "Pages that running sequences hold.", stats.pages_used);
  single(out, "quantgrid_kv_pages_cached", "gauge", "Unreferenced pages kept for reuse.", stats.pages_cached);
  single(out, "quantgrid_kv_page_tokens", "gauge", "Tokens a page.", engine.page_tokens);
  single(out, "quantgrid_prompt_tokens_total", "counter", "Prompt tokens of accepted requests.", metrics.prompt_tokens);
  single(out, "quantgrid_generation_tokens_total", "counter", "Tokens generated for clients.",
         metrics.generation_tokens);
  single(out, "quantgrid_reused_tokens_total", "counter", "Prompt tokens found in the KV cache.", stats.reused_tokens);
  single(out, "quantgrid_preemptions_total", "counter", "Sequences that gave their pages up.", stats.preemptions);
  single(out, "quantgrid_steps_total", "counter", "Steps of the engine.", stats.steps);
  single(out, "quantgrid_output_tokens_per_second", "gauge", "Decoded tokens a second over the last 10 seconds.",
         metrics.speed.output_tok_s());
  const double context = stats.running > 0 ? static_cast<double>(stats.pages_used * engine.page_tokens) /
                                                 static_cast<double>(stats.running)
                                           : 0;
  if (const auto share = metrics.speed.roofline_share(roofline, context))
    single(out, "quantgrid_roofline_ratio", "gauge",
           "Decoded tokens per working second over what the card's data sheet allows, last 10 seconds.", *share);
  out += metrics.time_to_first_token.text("quantgrid_time_to_first_token_seconds",
                                          "From the request being read to the step that made its first token.");
  out += metrics.time_per_output_token.text("quantgrid_time_per_output_token_seconds",
                                            "Mean time between tokens of a choice.");
  out += metrics.request_duration.text("quantgrid_request_duration_seconds", "From the request being read to its end.");
  single(out, "quantgrid_connections", "gauge", "Open connections.", engine.connections);
  single(out, "quantgrid_connections_total", "counter", "Connections accepted.", metrics.connections_total);
  single(out, "quantgrid_clients_gone_total", "counter", "Clients that left before their answer.",
         metrics.clients_gone);
  single(out, "quantgrid_clients_slow_total", "counter", "Clients dropped for reading too slowly.",
         metrics.clients_slow);
  single(out, "process_resident_memory_bytes", "gauge", "Anonymous resident memory.", anonymous_rss_bytes());
  return out;
}

}  // namespace qg
