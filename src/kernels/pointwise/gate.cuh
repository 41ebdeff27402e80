#pragma once
// What the kernels that gate or quantize rows share.
#include "kernels/pointwise/cuda.h"
#include "kernels/pointwise/quantize.cuh"
#include "kernels/pointwise/silu.cuh"

namespace qg {

struct GateArguments {
  int width;
  const __half* x;  // [rows, width]; gated: [rows, 2 * width], 8 of gate, 8 of up, ...
  bool gated;
  const float* prequant;
  float static_scale;
  void* out;
  float* row_scales;
};

__device__ __forceinline__ void load_half8(float (&x)[8], const __half* from) {
  const uint4 bits = *reinterpret_cast<const uint4*>(from);
  const __half2* pairs = reinterpret_cast<const __half2*>(&bits);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = __half22float2(pairs[i]);
    x[2 * i] = pair.x, x[2 * i + 1] = pair.y;
  }
}

__device__ __forceinline__ void values_at(const GateArguments& a, int64_t row, int column, float (&x)[8]) {
  if (a.gated) {
    const __half* gate = a.x + (row * a.width + column) * 2;
    float up[8];
    load_half8(x, gate);
    load_half8(up, gate + 8);
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = silu_times(x[i], up[i]);
  } else {
    load_half8(x, a.x + row * a.width + column);
  }
  if (a.prequant) {
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] *= a.prequant[column + i];
  }
}

template <ActivationForm kForm>
__device__ __forceinline__ void* row_of(const GateArguments& a, int64_t row) {
  return static_cast<uint8_t*>(a.out) + row * a.width * (kForm == ActivationForm::f16 ? 2 : 1);
}

// Scales per token of few rows on Hopper: a cluster of blocks a row.
bool clusters_serve_gate(const CudaQueue& queue, int64_t rows, int64_t width);
void launch_gate_per_token_cluster(const CudaQueue& queue, int64_t rows, ActivationForm form, const GateArguments& a);

}  // namespace qg
