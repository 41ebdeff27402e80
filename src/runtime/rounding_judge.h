#pragma once
// Watches the CPU executor round what its linear layers read: to compare its roundings with another program's, and to
// go on with the other's where two programs may rightly differ.
#include <functional>

#include "core/model_shape.h"
#include "kernels/linear/run.h"

namespace qg {

struct Rounding {
  int layer;
  LinearRole role;  // of the linear layer that reads; gate and up read the same and are asked one after the other
  const char* tap;  // the name of what it reads among the taps of that layer: "mlp_act"
  const RoundedInput& input;
};
using RoundingJudge = std::function<void(const Rounding& rounding)>;

}  // namespace qg
