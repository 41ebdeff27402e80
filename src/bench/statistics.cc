#include "bench/statistics.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>

#include "core/error.h"

namespace qg {

double student_t_975(int64_t degrees) {
  static constexpr std::array<double, 30> kTable{12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228,
                                                 2.201,  2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086,
                                                 2.080,  2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042};
  if (degrees < 1) throw Error("Student's t needs at least one degree of freedom");
  if (degrees <= 30) return kTable[static_cast<size_t>(degrees - 1)];
  // Cornish-Fisher expansion about the normal quantile; below 1e-4 off from 30 degrees on.
  const double z = 1.959964, d = static_cast<double>(degrees);
  return z + (z * z * z + z) / (4 * d) + (5 * std::pow(z, 5) + 16 * z * z * z + 3 * z) / (96 * d * d);
}

Estimate mean(std::span<const double> values) {
  if (values.empty()) throw Error("mean of no values");
  const auto n = static_cast<double>(values.size());
  double sum = 0, squares = 0;
  for (double v : values) sum += v;
  const double m = sum / n;
  for (double v : values) squares += (v - m) * (v - m);
  Estimate e{m, m, m, static_cast<int64_t>(values.size())};
  if (e.n > 1) {
    const double half = student_t_975(e.n - 1) * std::sqrt(squares / (n - 1) / n);
    e.ci_lo = m - half;
    e.ci_hi = m + half;
  }
  return e;
}

std::string speed_text(const Estimate& speed, int64_t rounds) {
  const std::string of = fmt::format("{} round{}", rounds, rounds == 1 ? "" : "s");
  if (!speed.has_interval()) return fmt::format("{:.1f} tok/s  ({})", speed.value, of);
  return fmt::format("{:.1f} tok/s  (95 %: {:.1f} to {:.1f}; {})", speed.value, speed.ci_lo, speed.ci_hi, of);
}

Estimate geometric_mean(std::span<const double> rounds) {
  std::vector<double> logs;
  for (double r : rounds) {
    if (!(r > 0)) throw Error("a speed of " + std::to_string(r) + " cannot be averaged");
    logs.push_back(std::log(r));
  }
  const Estimate e = mean(logs);
  return {std::exp(e.value), std::exp(e.ci_lo), std::exp(e.ci_hi), e.n};
}

double quantile(std::vector<double> values, double q) {
  if (values.empty()) throw Error("quantile of no values");
  std::sort(values.begin(), values.end());
  const double place = q * static_cast<double>(values.size() - 1);
  const auto low = static_cast<size_t>(place);
  const size_t high = std::min(low + 1, values.size() - 1);
  return values[low] + (place - static_cast<double>(low)) * (values[high] - values[low]);
}

}  // namespace qg
