#pragma once
// What quantizing on a GPU needs of the card's memory, and how the calibration tokens are cut into chunks for it.
// Host only, so that the budget is printed, tested and refused without a card.
#include <cstdint>
#include <string>
#include <vector>

#include "core/dtype.h"
#include "core/model_shape.h"

namespace qg {

// The largest group of linear layers that read one activation, in each respect.
struct GroupSizes {
  int64_t weights = 0;  // most of n * k
  int64_t n = 0, k = 0;
  int64_t sampled = 0;    // rows of the sample
  int64_t min_group = 0;  // least int4 group
  bool feedback = false;
  int64_t bytes() const;  // scratch of CudaGroupQuantizer
};
GroupSizes group_sizes(const ModelShape& shape, int64_t sampled, bool feedback);

struct GpuBudgetRequest {
  ModelShape shape;
  DType weight_type = DType::f16;
  std::vector<int64_t> lengths;  // tokens of each calibration sequence
  int64_t sampled = 0;
  bool quantizes = true;     // false: the KV cache's calibration alone
  bool feedback = true;      // Gram matrices are wanted
  int64_t memory_bytes = 0;  // what may be used
};

struct GpuBudget {
  int64_t residual_bytes = 0;            // of all calibration tokens, float
  int64_t layer_bytes = 0;               // two layers' weights, and one in half where they are stored otherwise
  int64_t statistics_bytes = 0;          // Gram matrices, samples, sums of the four activations of a layer
  int64_t search_bytes = 0;              // scratch of searching and rounding
  int64_t chunk_bytes = 0;               // the forward pass of a chunk, and the KV cache's statistics
  int64_t reserved_bytes = 0;            // CUDA's own, cuBLASLt's workspace
  int64_t chunk_tokens = 0;              // most tokens of a chunk
  std::vector<int64_t> chunk_sequences;  // sequences of each chunk, in order
  int64_t total_bytes() const;
  std::string text() const;  // one line: total and parts in GB
};

// The largest chunks, up to 8,192 tokens, that fit. Throws Error (exit code 4) with the whole budget when not even one
// sequence at a time does.
GpuBudget plan_gpu_budget(const GpuBudgetRequest& request);

}  // namespace qg
