#pragma once
// Judges a factor of error feedback's Gram matrix in double: H = L^T L within the rounding of a factorization in float.
#include <cblas.h>

#include <cmath>
#include <cstdint>
#include <vector>

#include "tests/quantize/feedback_check.h"

namespace qg::testing {

// The damped matrix that is factorized, [k, k] in rounding order, in double, lower triangle. gram: lower triangle, in
// the columns' own order. down: factors of the inputs, or empty.
inline std::vector<double> damped_in_order(const std::vector<float>& gram, const std::vector<float>& down, double damp,
                                           const std::vector<int32_t>& order) {
  const auto k = static_cast<int64_t>(order.size());
  const auto at = [&](int64_t i, int64_t j) {
    const auto scale = [&](int64_t c) {
      return down.empty() ? 1.0 : static_cast<double>(down[static_cast<size_t>(c)]);
    };
    return static_cast<double>(gram[static_cast<size_t>(std::max(i, j) * k + std::min(i, j))]) * scale(i) * scale(j);
  };
  double mean = 0;
  for (int64_t i = 0; i < k; ++i) mean += at(i, i) / static_cast<double>(k);
  std::vector<double> h(static_cast<size_t>(k * k));
  for (int64_t i = 0; i < k; ++i) {
    const int64_t from = order[static_cast<size_t>(i)];
    for (int64_t j = 0; j < i; ++j) h[static_cast<size_t>(i * k + j)] = at(from, order[static_cast<size_t>(j)]);
    // A channel that was never active counts as the mean.
    h[static_cast<size_t>(i * k + i)] = (at(from, from) > 0 ? at(from, from) : mean) + damp * mean;
  }
  return h;
}

// The greatest |H - L^T L|_ij in units of its bound: a right factorization gives at most 1. factor: as FeedbackRun's.
//
// Bound. Sums in any order: |H - L^T L| <= gamma_(k+1) |L|^T |L| (Higham, 10.1), and (|L|^T |L|)_ij <= s_i s_j with
// s_i = sqrt(H_ii), by Cauchy and Schwarz; 15 more roundings cover the scaling of H, and M = L_tj (1 / L_tt) taken
// apart and together. The rows beside a diagonal block D of `block` rows are made by multiplying what is left of H
// there, at most s_i s_j, with a computed inverse X, |D X - I| <= gamma |D| |X|. That adds gamma_(block+2) (K s + K K
// s)_i s_j, K = |D|^T |X|^T.
inline double factor_gap(const std::vector<double>& h, const std::vector<float>& factor, int64_t k, int64_t block) {
  std::vector<double> l(static_cast<size_t>(k * k)), residual = h, s(static_cast<size_t>(k)), bound(s.size());
  const auto at = [k](int64_t i, int64_t j) { return static_cast<size_t>(i * k + j); };
  for (int64_t i = 0; i < k; ++i) {
    const auto pivot = static_cast<double>(factor[at(i, i)]);
    if (!(pivot > 0) || !std::isfinite(pivot)) return INFINITY;
    for (int64_t j = 0; j < i; ++j) l[at(i, j)] = static_cast<double>(factor[at(i, j)]) * pivot;
    l[at(i, i)] = pivot;
    s[static_cast<size_t>(i)] = std::sqrt(h[at(i, i)]);
    bound[static_cast<size_t>(i)] = gamma_of(k + 16) * s[static_cast<size_t>(i)];
  }
  cblas_dsyrk(CblasRowMajor, CblasLower, CblasTrans, static_cast<int>(k), static_cast<int>(k), -1.0, l.data(),
              static_cast<int>(k), 1.0, residual.data(), static_cast<int>(k));
  for (int64_t first = 0; first < k; first += block) {
    const int64_t size = std::min(block, k - first);
    std::vector<double> inverse(static_cast<size_t>(size * size));
    const auto x = [&](int64_t i, int64_t j) -> double& { return inverse[static_cast<size_t>(i * size + j)]; };
    for (int64_t j = 0; j < size; ++j)
      for (int64_t i = j; i < size; ++i) {
        double sum = i == j ? 1 : 0;
        for (int64_t p = j; p < i; ++p) sum -= l[at(first + i, first + p)] * x(p, j);
        x(i, j) = sum / l[at(first + i, first + i)];
      }
    const auto through = [&](const std::vector<double>& from) {  // K from
      std::vector<double> mid(from.size()), to(from.size());
      for (int64_t i = 0; i < size; ++i)
        for (int64_t p = i; p < size; ++p)
          mid[static_cast<size_t>(i)] += std::fabs(x(p, i)) * from[static_cast<size_t>(p)];
      for (int64_t i = 0; i < size; ++i)
        for (int64_t p = i; p < size; ++p)
          to[static_cast<size_t>(i)] += std::fabs(l[at(first + p, first + i)]) * mid[static_cast<size_t>(p)];
      return to;
    };
    const std::vector<double> once = through({s.begin() + first, s.begin() + first + size}), twice = through(once);
    for (int64_t i = 0; i < size; ++i)
      bound[static_cast<size_t>(first + i)] +=
          gamma_of(block + 2) * (once[static_cast<size_t>(i)] + twice[static_cast<size_t>(i)]);
  }
  double gap = 0;
  for (int64_t i = 0; i < k; ++i)
    for (int64_t j = 0; j <= i; ++j) {
      const double part = std::fabs(residual[at(i, j)]) / (bound[static_cast<size_t>(i)] * s[static_cast<size_t>(j)]);
      gap = std::isfinite(part) ? std::max(gap, part) : INFINITY;
    }
  return gap;
}

}  // namespace qg::testing
