#pragma once
// Layouts with Hugging Face names store q, k and v apart, where LinearWeights has them as one matrix: the way between.
#include <string>
#include <vector>

#include "core/quant_spec.h"

namespace qg {

// Out features [first, first + rows) of a layer as a layer of their own. Scales that hold for the whole matrix, and
// those of the input, go to every part; FP8 scales a row that are all the same become one. Weights are views.
LinearWeights part_rows(const LinearWeights& weights, int64_t first, int64_t rows);

// The parts, which read one input, as one layer; `where` names it in errors. One scale a matrix stays one where all
// parts have the same, and becomes one a row where they differ: the same numbers. Static input scales that differ
// become the greatest, which clips nothing (what vLLM and TensorRT-LLM do); `notes`, where given, says so. Throws Error
// when the parts scale their input differently (prequant), or are of different formats.
LinearWeights stack_parts(const std::vector<LinearWeights>& parts, const std::string& where,
                          std::vector<std::string>* notes = nullptr);

// A scale per out feature instead of one for the matrix: the same numbers.
Tensor scale_per_row(const Tensor& scale, int64_t n);

}  // namespace qg
