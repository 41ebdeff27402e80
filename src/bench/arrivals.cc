#include "bench/arrivals.h"

#include <cmath>

#include "core/error.h"

namespace qg {
namespace {

constexpr uint64_t kStream = 0x5eed;

double next_normal(Rng& rng) {
  const double u = 1.0 - rng.next_uniform(), v = rng.next_uniform();
  return std::sqrt(-2.0 * std::log(u)) * std::cos(6.283185307179586 * v);
}

}  // namespace

double gamma_of_mean_1(Rng& rng, double shape) {
  // Below 1 a value of shape + 1 times a power of a uniform one has the distribution.
  const double larger = shape < 1 ? shape + 1 : shape;
  const double d = larger - 1.0 / 3, c = 1 / std::sqrt(9 * d);
  for (;;) {
    const double x = next_normal(rng), v = std::pow(1 + c * x, 3), u = 1.0 - rng.next_uniform();
    if (v <= 0 || std::log(u) >= 0.5 * x * x + d - d * v + d * std::log(v)) continue;
    const double power = shape < 1 ? std::pow(1.0 - rng.next_uniform(), 1 / shape) : 1;
    return d * v * power / shape;
  }
}

std::vector<double> arrival_times(const ArrivalProcess& process, int64_t count) {
  if (!(process.rate_per_s > 0)) throw Error("the request rate must be above zero", "--rate", "give requests a second");
  if (!(process.burstiness > 0)) throw Error("the burstiness must be above zero", "--burstiness", "1 is Poisson");
  std::vector<double> times;
  times.reserve(static_cast<size_t>(count));
  double t = 0;
  for (int64_t i = 0; i < count; ++i) {
    times.push_back(t);
    // Each gap has a stream of its own: how many values one takes does not move the next.
    Rng gap(process.seed, kStream + static_cast<uint64_t>(i));
    t += (process.burstiness == 1 ? -std::log(1.0 - gap.next_uniform()) : gamma_of_mean_1(gap, process.burstiness)) /
         process.rate_per_s;
  }
  return times;
}

}  // namespace qg
