#pragma once
// The gating of a feed-forward layer, for the kernels that do it by itself and for those that end a product with it.
#include <cuda_fp16.h>

namespace qg {

__device__ __forceinline__ float silu_times(float gate, float up) {
  return __fdividef(gate, 1.0f + __expf(-gate)) * up;
}

}  // namespace qg
