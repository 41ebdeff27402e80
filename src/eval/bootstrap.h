#pragma once
// Confidence intervals for means over text. Neighbouring tokens are correlated, so blocks of them are resampled, not
// single tokens (circular block bootstrap, Politis and Romano 1992).
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

namespace qg {

struct Interval {
  double value = 0, lo = 0, hi = 0;  // 95 %
};

struct BootstrapOptions {
  int64_t block = 128;  // tokens; shorter where there would be fewer than eight blocks
  int64_t resamples = 1000;
  uint64_t seed = 20261122;
};

// Interval of statistic(means), where means[c] is the mean of column c over a resample; columns are resampled together,
// which makes differences and ratios between them paired.
Interval block_bootstrap(std::span<const std::vector<double>> columns,
                         const std::function<double(std::span<const double> means)>& statistic,
                         const BootstrapOptions& options = {});

}  // namespace qg
