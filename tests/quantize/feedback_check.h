#pragma once
// Judges codes that were rounded with error feedback, whoever made them. Two right implementations give different
// codes: a sum that ends in another last bit turns a tie, and that code's error goes into all later columns of its row.
// So codes are not compared with another's. Each is held to the recursion's own rule, computed in double from the codes
// that the same implementation chose before it ("teacher forcing"):
//
//   v_t = w_t + sum over j < t of (w_j - q_j) M_tj,   q_t the value nearest to v_t,   M_tj = L_tj / L_tt, H = L^T L
//
// An implementation in float may miss v_t by the rounding of its sum alone. Of t + 1 terms, each a product, in any
// order, that is at most gamma_(t+2) (|w_t| + sum |w_j - q_j| |M_tj|) with gamma_m = m u / (1 - m u), u = 2^-24
// (Higham, "Accuracy and Stability of Numerical Algorithms", 3.1). A code is wrong when no value within that bound
// rounds to it: only what lies so close to the middle between two codes may go either way. Without feedback the bound
// is 0.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <vector>

#include "core/float.h"
#include "core/format.h"
#include "core/parallel.h"

namespace qg::testing {

inline constexpr double kUnit = 0x1p-24;  // of float
inline double gamma_of(int64_t terms) {
  return static_cast<double>(terms) * kUnit / (1 - static_cast<double>(terms) * kUnit);
}

// What was rounded and what came out.
struct FeedbackRun {
  WeightFormat format = WeightFormat::int8_sq;
  int64_t n = 0, k = 0, group = 0;  // group: inputs that share a scale; 0: all of a row
  std::vector<float> weight;        // [n, k], scaled as it was rounded
  std::vector<int32_t> order;       // [k]: column rounded i-th
  std::vector<float> factor;        // [k, k], in that order: L_tt on the diagonal, M below it; empty: no feedback
  std::vector<float> scales;        // [n, k / group]
  std::vector<float> zeros;         // of int4_awq, like scales
  std::vector<uint8_t> codes;       // [n, k], columns in their own order
  double more_slack = 0;            // in steps: of an implementation that rounds in more places than the sum

  size_t grid_of(int64_t row, int64_t column) const {
    return static_cast<size_t>(group > 0 ? row * (k / group) + column / group : row);
  }
  // What a code stands for, in steps of its scale.
  double number(uint8_t code, size_t grid) const {
    if (format == WeightFormat::fp8) return static_cast<double>(f32_from_e4m3(code));
    if (format == WeightFormat::int8_sq) return static_cast<int8_t>(code);
    return static_cast<double>(code) - static_cast<double>(zeros[grid]);
  }
  // The representable number nearest to z.
  double nearest(double z, size_t grid) const {
    if (format == WeightFormat::fp8)
      return static_cast<double>(f32_from_e4m3(e4m3_from_f32(static_cast<float>(std::clamp(z, -448.0, 448.0)))));
    if (format == WeightFormat::int8_sq) return std::clamp(std::nearbyint(z), -127.0, 127.0);
    const auto zero = static_cast<double>(zeros[grid]);
    return std::clamp(std::nearbyint(z) + zero, 0.0, 15.0) - zero;
  }
};

struct FeedbackVerdict {
  int64_t wrong = 0, ties = 0;               // codes that are not the nearest: beyond the bound, and within it
  int64_t first_row = -1, first_place = -1;  // of a wrong one; place: in rounding order
  // sum over rows of e^T H e, e = w - q: what error feedback makes small. It is sum L_tt^2 (v_t - q_t)^2, since
  // (L e)_t = L_tt (v_t - q_t). squares: the sum of the squares of these terms.
  double objective = 0, squares = 0;
};

inline FeedbackVerdict check_feedback(const FeedbackRun& run) {
  const int64_t n = run.n, k = run.k;
  const bool feedback = !run.factor.empty();
  std::vector<FeedbackVerdict> rows(static_cast<size_t>(n));
  parallel_for(n, 1, [&](int64_t begin, int64_t end) {
    std::vector<double> gaps(static_cast<size_t>(k));
    for (int64_t r = begin; r < end; ++r) {
      FeedbackVerdict& verdict = rows[static_cast<size_t>(r)];
      for (int64_t t = 0; t < k; ++t) {
        const int64_t column = run.order[static_cast<size_t>(t)];
        const auto at = static_cast<size_t>(r * k + column);
        const size_t grid = run.grid_of(r, column);
        const float scale = run.scales[grid], w = run.weight[at];
        double v = static_cast<double>(w), magnitude = std::fabs(v);
        const float* m = feedback ? run.factor.data() + t * k : nullptr;
        double sum = 0, absolute = 0;
        for (int64_t j = 0; feedback && j < t; ++j) {
          const double term = gaps[static_cast<size_t>(j)] * static_cast<double>(m[j]);
          sum += term;
          absolute += std::fabs(term);
        }
        v += sum;
        magnitude += absolute;
        const double number = run.number(run.codes[at], grid), z = v / static_cast<double>(scale);
        // Beside the sum's rounding, that of the division; without feedback the same float division is done here.
        const double slack = feedback ? gamma_of(t + 2) * magnitude / static_cast<double>(scale) +
                                            2 * kUnit * std::fabs(z) + run.more_slack
                                      : 0;
        const double exact = feedback ? z : static_cast<double>(w / scale);
        if (number != run.nearest(exact, grid)) {
          const bool tie = number >= run.nearest(exact - slack, grid) && number <= run.nearest(exact + slack, grid);
          ++(tie ? verdict.ties : verdict.wrong);
          if (!tie && verdict.first_place < 0) verdict.first_place = t;
        }
        const float value = static_cast<float>(number) * scale;  // rounded as every implementation rounds it
        gaps[static_cast<size_t>(t)] = static_cast<double>(w - value);
        const double residual = v - static_cast<double>(value);
        const double pivot = feedback ? static_cast<double>(m[t]) : 1.0, term = pivot * pivot * residual * residual;
        verdict.objective += term;
        verdict.squares += term * term;
      }
    }
  });
  FeedbackVerdict all;
  for (int64_t r = 0; r < n; ++r) {
    const FeedbackVerdict& verdict = rows[static_cast<size_t>(r)];
    all.wrong += verdict.wrong;
    all.ties += verdict.ties;
    all.objective += verdict.objective;
    all.squares += verdict.squares;
    if (verdict.first_place < 0 || all.first_place >= 0) continue;
    all.first_row = r;
    all.first_place = verdict.first_place;
  }
  return all;
}

// By how much the objectives of two right implementations may differ. After the first tie that fell the other way their
// residuals are as good as independent, so the objectives are two sums of independent terms with the same mean; the
// variance of each is at most the sum of its terms' squares. Six standard deviations: one right pair in 10^9 fails.
inline double objective_margin(const FeedbackVerdict& a, const FeedbackVerdict& b) {
  return 6 * std::sqrt(a.squares + b.squares);
}

}  // namespace qg::testing
