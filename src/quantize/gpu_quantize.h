#pragma once
// quantize() on a GPU: a layer at a time streams from the mapped files through the card, on which the residual stream
// of all calibration tokens stays (docs/quantization.md). The CPU's quantize() is the definition.
#include <utility>

#include "quantize/gpu_budget.h"
#include "quantize/quantize.h"

namespace qg {

struct GpuQuantizeOptions {
  int device = 0;            // as CUDA numbers them
  int64_t memory_bytes = 0;  // use no more of the card than this; 0 = all that is free
};

struct GpuQuantizeReport {
  std::vector<QuantizeReport> outputs;
  GpuBudget budget;
  int64_t peak_gpu_bytes = 0;             // in use on the card at most, CUDA's own included
  int64_t peak_host_anonymous_bytes = 0;  // of this process, mapped files apart, as seen at the end of each layer
  int64_t restored_layers = 0;            // of an earlier run
  // Seconds of each phase, some of which go on at the same time: "check" of what belongs to no layer; "read" (and
  // check) and "upload" of the base, "wait_for_layers" that were not there yet; "forward", "statistics", "kv" on the
  // card; "search", "rounding"; "write", "wait_for_writes".
  std::vector<std::pair<std::string, double>> phases;
  // What the phases may be held against: bytes read, floating-point operations of the forward pass and of the Gram
  // matrices (half precision), of factors and error feedback (single).
  double read_bytes = 0, forward_flop = 0, gram_flop = 0, rounding_flop = 0;
};

// Throws what quantize() throws, and Error (exit code 4) when this build or machine has no such card, or the budget
// does not fit it.
GpuQuantizeReport quantize_on_gpu(const QuantizeJob& job, const GpuQuantizeOptions& options,
                                  const std::function<void(const std::string&)>& on_step);

}  // namespace qg
