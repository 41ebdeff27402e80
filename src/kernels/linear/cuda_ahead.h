#pragma once
// The beginning of the weights that the chain will read after a layer of 4-bit weights: its kernel asks L2 for them
// once it has asked for all of its own, so that memory works on while sums end, activations travel and the next kernel
// starts. Wider weights keep memory busy enough: there it costs a step 1 to 4 % (docs/performance-log.md).
#include <cstdint>

namespace qg {

// In equal parts, one for each block or warp that asks: part i begins at data + i * bytes. A multiple of 16; 0:
// nothing.
struct WeightsAhead {
  const void* weight = nullptr;
  const void* scales = nullptr;  // of int4 groups
  uint32_t weight_bytes = 0, scale_bytes = 0;
};

// Of all parts together, at most. More takes memory from the loads that the kernel itself still waits for: 12 MB cost 2
// to 6 % in the chain of a layer's products, 2 MB gain 1 to 3 %.
inline constexpr int64_t kAheadBytes = int64_t{2} << 20;

}  // namespace qg
