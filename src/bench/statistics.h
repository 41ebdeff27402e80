#pragma once
// Statistics of speed. Definitions and their reasons: docs/measuring.md.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace qg {

struct Estimate {
  double value = 0, ci_lo = 0, ci_hi = 0;  // 95 %; lo = hi = value when one sample says nothing of the spread
  int64_t n = 0;
  bool has_interval() const { return ci_lo < ci_hi; }
};

// "810.5 tok/s  (95 %: 805.0 to 816.1; 5 rounds)"; of one round no interval.
std::string speed_text(const Estimate& speed, int64_t rounds);

// Geometric mean with Student's t interval on the logarithms: what rounds of a speed (all > 0) are summed up by.
Estimate geometric_mean(std::span<const double> rounds);
// Arithmetic mean with Student's t interval.
Estimate mean(std::span<const double> values);
// Quantile q in [0, 1], linear between order statistics (type 7). Throws Error on no values.
double quantile(std::vector<double> values, double q);
// 97.5 % point of Student's t with the given degrees of freedom (>= 1).
double student_t_975(int64_t degrees);

}  // namespace qg
