#pragma once
// What a quantizer must not swallow: one value that is not a number spoils every scale that it meets, and a checkpoint
// would be made all the same. Both the CPU and the GPU quantizer ask here.
#include <span>
#include <string>

#include "checkpoint/checkpoint.h"

namespace qg {

// Whether `count` elements of dtype are all finite numbers.
bool all_finite(DType dtype, const void* values, int64_t count);

// Throws Error naming the first tensor of the layer (-1: those outside the layers) that holds an infinite value or one
// that is not a number.
void check_finite_layer(const Checkpoint& base, int layer);

// Throws Error when an activation's sums of magnitudes, in which what is no number stays, are not finite: the 16-bit
// model itself computes no numbers. more: what else may help.
void check_finite_sums(std::span<const double> sums, const std::string& where, const std::string& more);

}  // namespace qg
