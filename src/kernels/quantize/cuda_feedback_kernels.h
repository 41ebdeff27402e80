#pragma once
// Kernels behind cuda_feedback.h.
#include "kernels/quantize/cuda_feedback.h"

namespace qg {

// One diagonal block of `size` <= kFactorBlock rows at a (pitch k): becomes L with L^T L = block; inverse
// [kFactorBlock, kFactorBlock] gets its inverse, zeros above the diagonal and beyond size.
void factor_block(const CudaQueue& queue, int64_t size, int64_t k, float* a, float* inverse, int32_t* failed);
// Rows of a below the diagonal, divided by their diagonal element.
void scale_factor_rows(const CudaQueue& queue, int64_t k, float* a);
// working[r][i] = w[r][order[i]] * up[order[i]].
void arrange_columns(const CudaQueue& queue, const FeedbackParams& params);
// Columns [begin, begin + kFeedbackBlock) of the order, for every row; their gaps w - q go to params.gaps.
void round_block(const CudaQueue& queue, const FeedbackParams& params, int64_t begin);

}  // namespace qg
