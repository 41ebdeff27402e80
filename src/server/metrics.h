#pragma once
// What /metrics shows, in Prometheus' text format: base units (seconds, bytes), counters end in _total. Counted on the
// event loop only; the engine's figures are those of its last step.
#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "runtime/engine.h"

namespace qg {

class Histogram {
 public:
  explicit Histogram(std::vector<double> bounds) : bounds_(std::move(bounds)), counts_(bounds_.size() + 1) {}
  void observe(double seconds);
  // Lines of `name`: cumulative buckets, sum, count.
  std::string text(const std::string& name, const std::string& what) const;
  int64_t count() const;

 private:
  std::vector<double> bounds_;  // upper ends, rising; the last bucket has none
  std::vector<int64_t> counts_;
  double sum_ = 0;
};

// Output tokens/s that the data sheet allows for so many sequences with so many tokens each; empty: not known.
using RooflineTokensPerSecond = std::function<std::optional<double>(double batch, double context_tokens)>;

// Speed over the last seconds, from the engine's totals.
class SpeedWindow {
 public:
  static constexpr std::chrono::seconds kLength{10};
  void sample(EngineClock::time_point now, const EngineStats& stats, double busy_seconds);
  double output_tok_s() const;  // 0 while nothing ran
  double mean_batch() const;    // sequences a step
  // Of what the roofline allows, while the engine was working.
  std::optional<double> roofline_share(const RooflineTokensPerSecond& roofline, double context_tokens) const;

 private:
  struct Sample {
    EngineClock::time_point time;
    int64_t decode_tokens = 0, steps = 0, batch_sum = 0;
    double busy_seconds = 0;
  };
  std::deque<Sample> samples_;
};

struct ServerMetrics {
  std::map<std::pair<std::string, int>, int64_t> http_requests;  // by path and status
  std::map<std::string, int64_t> finished;                       // choices, by reason
  int64_t prompt_tokens = 0, generation_tokens = 0;
  int64_t connections_total = 0, clients_gone = 0, clients_slow = 0;
  Histogram time_to_first_token{{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}};
  Histogram time_per_output_token{{.0005, .001, .0025, .005, .0075, .01, .015, .02, .03, .05, .075, .1, .25, .5, 1}};
  Histogram request_duration{{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600}};
  SpeedWindow speed;
};

struct EngineView {
  EngineStats stats;
  int64_t page_tokens = 16;
  int64_t connections = 0;
  std::string model, kv;
};

std::string metrics_text(const ServerMetrics& metrics, const EngineView& engine,
                         const RooflineTokensPerSecond& roofline);

// A label's value, as the format wants it.
std::string escaped_label(const std::string& value);

}  // namespace qg
