// Reads memory as fast as the card can: 16 bytes a thread and load, eight loads in flight.
#include "kernels/common/cuda_read.h"

namespace qg {
namespace {

constexpr int kThreads = 512, kInFlight = 8;

__global__ void __launch_bounds__(kThreads) read_all(const uint4* from, size_t count, uint32_t* out) {
  const size_t stride = static_cast<size_t>(gridDim.x) * kThreads;
  uint32_t mixed = 0;
  for (size_t at = blockIdx.x * static_cast<size_t>(kThreads) + threadIdx.x; at < count; at += stride * kInFlight) {
    uint4 values[kInFlight] = {};
#pragma unroll
    for (int i = 0; i < kInFlight; ++i)
      if (at + i * stride < count) values[i] = __ldcs(from + at + i * stride);
#pragma unroll
    for (int i = 0; i < kInFlight; ++i) mixed ^= values[i].x ^ values[i].y ^ values[i].z ^ values[i].w;
  }
  // Never true for the zeros that are read; the compiler cannot know.
  if (mixed == 0x9e3779b9u) *out = mixed;
}

}  // namespace

void read_memory(const CudaQueue& queue, const void* from, size_t bytes, int multiprocessors, uint32_t* out) {
  launch(queue, read_all, dim3(static_cast<unsigned>(multiprocessors * 4)), dim3(kThreads), 0,
         static_cast<const uint4*>(from), bytes / sizeof(uint4), out);
}

}  // namespace qg
