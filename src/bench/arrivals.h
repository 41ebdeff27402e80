#pragma once
// When requests arrive that wait for nobody: an open loop.
#include <cstdint>
#include <vector>

#include "core/rng.h"

namespace qg {

struct ArrivalProcess {
  double rate_per_s = 1;  // > 0
  // Gaps between arrivals have a gamma distribution of this shape and of the mean 1 / rate: 1 = exponential, a Poisson
  // process; below 1 burstier, above 1 more even. > 0.
  double burstiness = 1;
  uint64_t seed = 42;
};

// Moments of `count` arrivals in seconds, ascending, the first at 0. A function of the arguments alone, and a longer
// list begins with the shorter one. Throws Error when rate or burstiness is not above zero.
std::vector<double> arrival_times(const ArrivalProcess& process, int64_t count);

// A value of the gamma distribution with mean 1, drawn from the generator's sequence (Marsaglia and Tsang, 2000).
double gamma_of_mean_1(Rng& rng, double shape);

}  // namespace qg
