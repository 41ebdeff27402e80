#pragma once
// Rough times to make and to run a case, so that a person knows whether to wait or to go home. Assumed rates, not
// promises.
#include "core/model_shape.h"
#include "grid/cards.h"
#include "grid/grid.h"

namespace qg {

// Seconds to make a checkpoint on this card, or on this machine's CPU for the card "cpu"; 0 for FP16, which needs none.
double quantize_seconds(const ModelShape& shape, const Card& card, WeightFormat weights,
                        const CalibrationSettings& calibration);

// Seconds to run a case's workloads of a profile and its accuracy part.
double run_seconds(const ModelShape& shape, const Card& card, WeightFormat weights, KvFormat kv, const Grid& grid,
                   Profile profile);

}  // namespace qg
