#pragma once
// How long work takes on the device, whatever the host needs to ask for it.
#include <functional>

#include "kernels/common/cuda.h"

namespace qg {

// The median time of `work` over `runs` runs (odd), in µs, after one that loads its kernels. Before each, `flush_bytes`
// at `flush` are written, to empty L2 (0: not). work queues on `stream` and waits for nothing.
// All runs are queued before the first may begin: asking the library for a product takes a slow host longer than
// many a product takes the device, and time between two events passes even while the device waits for the host.
double median_us(cudaStream_t stream, void* flush, size_t flush_bytes, int runs, const std::function<void()>& work);

}  // namespace qg
