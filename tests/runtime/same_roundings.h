#pragma once
// "The same roundings": the CPU executor goes over tokens that another program (the GPU's) went over before it.
// Wherever what a linear layer reads is rounded to 8 bits, the other's code must be one that the CPU's own value gives
// when it is moved by no more than its tolerance (rounding_bounds.h); in nearly all cases that is the CPU's own code,
// else the one on the other side of a border close by. Then the CPU goes on with the other's codes and scales. Nothing
// else is taken over: both have their own residual stream, keys, values and logits, from the first layer to the last.
#include <fmt/format.h>

#include <atomic>
#include <mutex>
#include <string>
#include <vector>

#include "core/float.h"
#include "runtime/rounding_judge.h"
#include "tests/runtime/rounding_bounds.h"

namespace qg::test {

// What the other program's linear layers read, dequantized and prequant scales taken out: [rows, k] by tap,
// "layers.3.mlp_act". Where it tells also what they wrote (qkv, attention_projected, mlp_projected; gate_up, whose rows
// alternate by eight), each value is compared with the CPU's, within the tolerance that is derived for it.
using OtherTaps = std::map<std::string, std::vector<float>>;

struct RoundingReport {
  int64_t codes = 0;
  int64_t could_differ = 0;  // whose border lies within the tolerance
  int64_t differed = 0;
  double expected = 0;   // that many would, if each value were off by its variance
  int64_t by_more = 0;   // than one code: small values, whose codes lie closer together than the tolerance
  int64_t outside = 0;   // of the tolerance: errors
  double worst = 0;      // the greatest share of its tolerance by which a value had to move
  double moved = 0;      // sum of these shares over the codes that differed
  double scale_off = 0;  // the greatest relative difference of a scale per token
  int64_t outputs = 0;   // of linear layers, compared
  double worst_output = 0, output_squares = 0;  // the greatest share of its tolerance, sum of the squares of all
  std::vector<std::string> problems;            // the first ones

  void add(const RoundingReport& other) {
    codes += other.codes, could_differ += other.could_differ, differed += other.differed, expected += other.expected;
    by_more += other.by_more, outside += other.outside, moved += other.moved;
    worst = std::max(worst, other.worst), scale_off = std::max(scale_off, other.scale_off);
    outputs += other.outputs, output_squares += other.output_squares;
    worst_output = std::max(worst_output, other.worst_output);
    for (const std::string& p : other.problems)
      if (problems.size() < 10) problems.push_back(p);
  }
};

// The codes of a format and their borders.
struct CodeGrid {
  bool fp8;
  double largest() const { return fp8 ? static_cast<double>(kE4m3Max) : 127; }
  // The nearest code's value, as the kernels round.
  double nearest(double x) const {
    if (fp8) return static_cast<double>(f32_from_e4m3(e4m3_from_f32(static_cast<float>(x))));
    return std::nearbyint(std::clamp(x, -127.0, 127.0));
  }
  // Codes counted from 0: neighbours differ by one.
  int64_t index(double code) const {
    if (!fp8) return static_cast<int64_t>(code);
    const int64_t magnitude = e4m3_from_f32(static_cast<float>(std::fabs(code)));
    return code < 0 ? -magnitude : magnitude;
  }
  double at(int64_t index) const {
    if (!fp8) return static_cast<double>(index);
    const double magnitude = static_cast<double>(f32_from_e4m3(static_cast<uint8_t>(std::abs(index))));
    return index < 0 ? -magnitude : magnitude;
  }
  // From a code to the next greater in magnitude.
  double step(double code) const {
    const int64_t i = std::min(std::abs(index(code)), index(largest()) - 1);
    return at(i + 1) - at(i);
  }
  // How far x lies outside of what is rounded to `code`.
  double outside(double x, double code) const {
    const int64_t i = index(code);
    const double below = (code + at(i - (code > -largest() ? 1 : 0))) / 2;
    const double above = (code + at(i + (code < largest() ? 1 : 0))) / 2;
    if (x < below && code > -largest()) return below - x;
    if (x > above && code < largest()) return x - above;
    return 0;
  }
};

class SameRoundings {
 public:
  // layers: those of the CPU's checkpoint.
  SameRoundings(const ModelShape& shape, const std::vector<CpuLayer>& layers)
      : shape_(shape), layers_(layers), bounds_(shape) {}

  // Before each step of the CPU executor: what the other read in the same step, and the tokens in the cache.
  void start(const OtherTaps& others, int64_t context) {
    others_ = &others;
    context_ = context;
  }
  // For the CPU executor, both.
  Tap tap() {
    return [this](const std::string& name, std::span<const float> values, int64_t rows, int64_t) {
      if (name == "embedding") bounds_.start({values.begin(), values.end()}, rows, context_);
    };
  }
  RoundingJudge judge() {
    return [this](const Rounding& rounding) { judge(rounding); };
  }
  const std::map<std::string, RoundingReport>& reports() const { return reports_; }  // by tap, all layers
  RoundingReport total() const {
    RoundingReport sum;
    for (const auto& [tap, report] : reports_) sum.add(report);
    return sum;
  }

 private:
  void judge(const Rounding& r) {
    const CpuLinear& linear = layers_[static_cast<size_t>(r.layer)].linear(r.role);
    if (r.role == LinearRole::up) {  // the same input as gate's
      take_over(r.input);
      up_ = linear_output(linear, r.input);
      compare_output(r, "gate_up", gate_, 0, 2 * gate_.width);
      compare_output(r, "gate_up", up_, 1, 2 * gate_.width);
      return;
    }
    std::vector<float> x(r.input.x, r.input.x + r.input.m * r.input.k);
    if (r.input.prequant)
      for (size_t i = 0; i < x.size(); ++i) x[i] *= r.input.prequant[i % static_cast<size_t>(r.input.k)];
    compare(r, x, tolerances(r, x));
    take_over(r.input);
    const Uncertain y = linear_output(linear, r.input);
    if (r.role == LinearRole::qkv) qkv_ = y;
    if (r.role == LinearRole::gate) gate_ = y;
    if (r.role == LinearRole::attention_output || r.role == LinearRole::down) bounds_.add_to_residual(y);
    if (r.role == LinearRole::qkv) compare_output(r, "qkv", y, 0, y.width);
    if (r.role == LinearRole::attention_output) compare_output(r, "attention_projected", y, 0, y.width);
    if (r.role == LinearRole::down) compare_output(r, "mlp_projected", y, 0, y.width);
  }

  // part of width / y.width, rows of which alternate by eight where there are two.
  void compare_output(const Rounding& r, const char* tap, const Uncertain& y, int64_t part, int64_t width) {
    const std::string name = fmt::format("layers.{}.{}", r.layer, tap);
    const auto found = others_->find(name);
    if (found == others_->end()) return;
    RoundingReport& report = reports_[r.tap];
    std::mutex mutex;
    for_rows(y.rows, [&](int64_t row) {
      RoundingReport mine;
      for (int64_t c = 0; c < y.width; ++c) {
        const size_t i = y.at(row, c);
        const int64_t place = width == y.width ? c : c / 8 * 16 + part * 8 + c % 8;
        const double got = static_cast<double>(found->second[static_cast<size_t>(row * width + place)]);
        const double want = static_cast<double>(y.values[i]), allowed = kDeviations * std::sqrt(y.variance[i]);
        const double share = std::isfinite(got) ? std::fabs(got - want) / allowed : 1e30;
        ++mine.outputs;
        mine.output_squares += share * share;
        mine.worst_output = std::max(mine.worst_output, share);
        if (share <= 1) continue;
        ++mine.outside;
        if (mine.problems.size() < 3)
          mine.problems.push_back(
              fmt::format("{} row {} column {}: got {}, want {} +- {}", name, row, c, got, want, allowed));
      }
      const std::lock_guard lock(mutex);
      report.add(mine);
    });
  }

  std::vector<double> tolerances(const Rounding& r, const std::vector<float>& x) {
    const CpuLayer& layer = layers_[static_cast<size_t>(r.layer)];
    if (r.role == LinearRole::qkv) return bounds_.norm(x, layer.attention_norm, r.input.prequant);
    if (r.role == LinearRole::gate) return bounds_.norm(x, layer.mlp_norm, r.input.prequant);
    std::vector<double> tolerance =
        r.role == LinearRole::attention_output ? bounds_.attention(r.layer, qkv_) : RoundingBounds::gate(gate_, up_);
    for (size_t i = 0; i < tolerance.size() && r.input.prequant; ++i)
      tolerance[i] *= std::fabs(static_cast<double>(r.input.prequant[i % static_cast<size_t>(r.input.k)]));
    return tolerance;
  }

  // The other's codes and scales from its dequantized values; then each against x +- tolerance.
  void compare(const Rounding& r, const std::vector<float>& x, const std::vector<double>& tolerance) {
    const RoundedInput& in = r.input;
    const CpuLinear& linear = layers_[static_cast<size_t>(r.layer)].linear(r.role);
    const bool per_token = linear.activations == ActivationScaling::dynamic_token;
    const CodeGrid grid{in.format == WeightFormat::fp8};
    const std::string name = fmt::format("layers.{}.{}", r.layer, r.tap);
    const std::vector<float>& read = others_->at(name);
    codes_.assign(read.size(), 0);
    scales_.assign(in.scales, in.scales + in.m);
    RoundingReport report;
    std::mutex mutex;
    for_rows(in.m, [&](int64_t row) {
      RoundingReport mine;
      const size_t first = static_cast<size_t>(row * in.k), end = first + static_cast<size_t>(in.k);
      const auto problem = [&](const std::string& what) {
        ++mine.outside;
        if (mine.problems.size() < 3) mine.problems.push_back(fmt::format("{} row {}: {}", name, row, what));
      };
      const auto other = [&](size_t i) {
        const double p = in.prequant ? static_cast<double>(in.prequant[i - first]) : 1;
        return static_cast<double>(read[i]) * p;
      };
      float& scale = scales_[static_cast<size_t>(row)];
      if (per_token) {  // the row's largest value has the largest code
        double largest = 0, least = 0, most = 0;
        for (size_t i = first; i < end; ++i) {
          const double magnitude = std::fabs(static_cast<double>(x[i]));
          largest = std::max(largest, std::fabs(other(i)));
          least = std::max(least, magnitude - tolerance[i]);
          most = std::max(most, magnitude + tolerance[i]);
        }
        if (!(largest >= least && largest <= most))
          problem(fmt::format("the largest value is {}, wanted {} to {}", largest, least, most));
        const double own = static_cast<double>(scale);
        if (largest > 0) scale = static_cast<float>(largest / grid.largest());
        mine.scale_off = std::fabs(static_cast<double>(scale) / own - 1);
      }
      const double s = static_cast<double>(scale);
      for (size_t i = first; i < end; ++i) {
        const double v = static_cast<double>(x[i]) / s, allowed = tolerance[i] / s, got = other(i) / s;
        const double code = grid.nearest(got), own = grid.nearest(v);
        codes_[i] = static_cast<float>(code);
        ++mine.codes;
        if (!(std::fabs(got - code) <= 1e-5 * std::fabs(code) + 1e-6)) {
          problem(fmt::format("column {}: {} is no code times the scale {}", i - first, other(i), s));
          continue;
        }
        if (grid.nearest(v - allowed) != grid.nearest(v + allowed)) ++mine.could_differ;
        if (std::fabs(v) < grid.largest())
          mine.expected += std::min(1.0, std::sqrt(2 / M_PI) * allowed / kDeviations / grid.step(own));
        if (code == own) continue;
        ++mine.differed;
        if (std::abs(grid.index(code) - grid.index(own)) > 1) ++mine.by_more;
        const double share = grid.outside(v, code) / allowed;
        mine.worst = std::max(mine.worst, share), mine.moved += share;
        if (!(share <= 1)) problem(fmt::format("column {}: code {}, own value {} +- {}", i - first, code, v, allowed));
      }
      const std::lock_guard lock(mutex);
      report.add(mine);
    });
    if (static_cast<double>(report.differed) > report.expected + 6 * std::sqrt(report.expected) + 6) {
      ++report.outside;
      report.problems.push_back(
          fmt::format("{}: {} codes differ, expected {:.1f} at most", name, report.differed, report.expected));
    }
    reports_[r.tap].add(report);
  }

  void take_over(const RoundedInput& in) const {
    for (int64_t row = 0; row < in.m; ++row) {
      std::copy_n(codes_.data() + row * in.k, in.k, in.codes + row * in.stride);
      in.scales[row] = scales_[static_cast<size_t>(row)];
    }
  }

  const ModelShape& shape_;
  const std::vector<CpuLayer>& layers_;
  RoundingBounds bounds_;
  const OtherTaps* others_ = nullptr;
  int64_t context_ = 0;
  std::vector<float> codes_, scales_;  // the other's, of the input judged last
  Uncertain qkv_, gate_, up_;
  std::map<std::string, RoundingReport> reports_;
};

// One line for people.
inline std::string describe(const RoundingReport& r) {
  const double all = static_cast<double>(std::max<int64_t>(r.codes, 1));
  const double differed = static_cast<double>(std::max<int64_t>(r.differed, 1));
  std::string line = fmt::format(
      "{} codes, {:.3f} % differ (expected {:.3f} %, {:.3f} % could, {} by more than one), {} outside; of the "
      "tolerance "
      "{:.3f} at most, {:.4f} in the mean",
      r.codes, 100 * static_cast<double>(r.differed) / all, 100 * r.expected / all,
      100 * static_cast<double>(r.could_differ) / all, r.by_more, r.outside, r.worst, r.moved / differed);
  if (r.scale_off > 0) line += fmt::format("; scales off by {:.1e}", r.scale_off);
  if (r.outputs > 0)
    line += fmt::format("; {} outputs, of the tolerance {:.3f} at most, {:.4f} rms", r.outputs, r.worst_output,
                        std::sqrt(r.output_squares / static_cast<double>(r.outputs)));
  return line;
}

}  // namespace qg::test
