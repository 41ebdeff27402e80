#pragma once
// How fast a card reads: what decode speed is measured against.
#include "kernels/common/cuda.h"

namespace qg {

// Reads `bytes` (a multiple of 16) at `from` once. out: one word, written only if the words at `from` happen to mix to
// one value; it keeps the loads from being removed.
void read_memory(const CudaQueue& queue, const void* from, size_t bytes, int multiprocessors, uint32_t* out);

}  // namespace qg
