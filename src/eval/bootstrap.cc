#include "eval/bootstrap.h"

#include <algorithm>
#include <cmath>

#include "core/error.h"
#include "core/rng.h"

namespace qg {
namespace {

constexpr int64_t kFewestBlocks = 8;

}  // namespace

Interval block_bootstrap(std::span<const std::vector<double>> columns,
                         const std::function<double(std::span<const double>)>& statistic,
                         const BootstrapOptions& options) {
  if (columns.empty() || columns[0].empty()) throw Error("nothing to take an interval of");
  const auto count = static_cast<int64_t>(columns[0].size());
  for (const auto& column : columns)
    if (static_cast<int64_t>(column.size()) != count)
      throw Error("columns of unequal length cannot be resampled together");
  // One circular block over all there is has the same mean wherever it starts: an interval of no width.
  const int64_t block = std::clamp<int64_t>(options.block, 1, std::max<int64_t>(1, count / kFewestBlocks));

  // Prefix sums over the doubled sequence make a circular block one subtraction.
  std::vector<std::vector<double>> sums(columns.size());
  for (size_t c = 0; c < columns.size(); ++c) {
    sums[c].assign(static_cast<size_t>(count + block) + 1, 0.0);
    for (int64_t i = 0; i < count + block; ++i)
      sums[c][static_cast<size_t>(i) + 1] =
          sums[c][static_cast<size_t>(i)] + columns[c][static_cast<size_t>(i % count)];
  }

  std::vector<double> means(columns.size());
  for (size_t c = 0; c < columns.size(); ++c)
    means[c] = sums[c][static_cast<size_t>(count)] / static_cast<double>(count);
  Interval result;
  result.value = statistic(means);

  Rng rng(options.seed);
  const int64_t blocks = (count + block - 1) / block;
  std::vector<double> values;
  for (int64_t r = 0; r < options.resamples; ++r) {
    std::fill(means.begin(), means.end(), 0.0);
    for (int64_t b = 0; b < blocks; ++b) {
      const auto start = static_cast<size_t>(rng.next_below(static_cast<uint64_t>(count)));
      for (size_t c = 0; c < columns.size(); ++c)
        means[c] += sums[c][start + static_cast<size_t>(block)] - sums[c][start];
    }
    for (double& m : means) m /= static_cast<double>(blocks * block);
    values.push_back(statistic(means));
  }
  std::sort(values.begin(), values.end());
  const auto at = [&](double q) {
    const double place = q * static_cast<double>(values.size() - 1);
    const auto low = static_cast<size_t>(place);
    const size_t high = std::min(low + 1, values.size() - 1);
    return values[low] + (place - static_cast<double>(low)) * (values[high] - values[low]);
  };
  result.lo = values.empty() ? result.value : at(0.025);
  result.hi = values.empty() ? result.value : at(0.975);
  return result;
}

}  // namespace qg
