#pragma once
// Groups of 4-bit weights so small that F16 rounds their scale to 0. Layouts that store F16 scales cannot hold them,
// and one such group in billions would end the job.
#include "core/quant_spec.h"

namespace qg {

// Gives such groups F16's smallest scale, 2^-24, and the codes nearest to the same values: each moves by half a step at
// most, 2^-25. Other groups, and weights of other formats, stay as they are.
void raise_tiny_scales(LinearWeights& weights);

}  // namespace qg
