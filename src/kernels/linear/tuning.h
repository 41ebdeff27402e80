#pragma once
// What was measured of linear layers on one card: which algorithm of the library, and which kernel, is fastest for a
// layer and a number of rows. Host only; runtime/tuning_file.h keeps it in a file.
#include <cstdint>
#include <map>
#include <string>
#include <vector>

namespace qg {

// A product of cuBLASLt, and its own 64 bytes for the algorithm: good for the same library and card alone.
struct TunedProduct {
  std::string kind, y_type;  // "e4m3", "F16"
  int64_t m = 0, n = 0, k = 0, weight_pitch = 0, y_pitch = 0;
  std::string algorithm;  // hexadecimal
  double us = 0;
  bool operator==(const TunedProduct&) const = default;
};

// A layer at m rows: every way that it can go, and the one taken.
struct TunedRoute {
  std::string layer;  // "w4a16 28672x4096 alternating"
  int64_t m = 0;
  std::string route;  // "skinny", "bulk", "wide", "library", ...
  std::map<std::string, double> us;
  bool operator==(const TunedRoute&) const = default;
};

struct TuningTable {
  std::vector<TunedProduct> products;
  std::vector<TunedRoute> routes;
  bool empty() const { return products.empty() && routes.empty(); }
};

}  // namespace qg
