#pragma once
// A random model in memory, for measuring speed without a folder: 16-bit tensors are those that `synth` writes for the
// same seed; other formats are those tensors rounded to nearest, without calibration.
#include <memory>

#include "checkpoint/checkpoint.h"
#include "checkpoint/synthetic.h"

namespace qg {

// quant: format, scaling and group size. Tensors are made when they are asked for. KV scales suit the synthetic
// activations, whose magnitude is near 1.
std::unique_ptr<Checkpoint> make_synthetic_checkpoint(ModelTable table, const QuantSpec& quant,
                                                      const SyntheticOptions& options);

}  // namespace qg
