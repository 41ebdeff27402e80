#pragma once
// What the kernels that gate or quantize rows share.
#include "kernels/pointwise/cuda.h"
#include "kernels/pointwise/quantize.cuh"
#include "kernels/pointwise/silu.cuh"

namespace qg {

struct GateArguments {
  int width;
  const __half* x;  // or bfloat16; [rows, width]; gated: [rows, 2 * width], 8 of gate, 8 of up, ...
  bool gated;
  const float* prequant;
  float static_scale;
  void* out;
  float* row_scales;
};

template <ActivationForm kForm>
__device__ __forceinline__ void load_eight(float (&x)[8], const typename Wide<kForm>::Type* from) {
  const uint4 bits = *reinterpret_cast<const uint4*>(from);
  const auto* pairs = reinterpret_cast<const typename Wide<kForm>::Pair*>(&bits);
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const float2 pair = Wide<kForm>::floats(pairs[i]);
    x[2 * i] = pair.x, x[2 * i + 1] = pair.y;
  }
}

template <ActivationForm kForm>
__device__ __forceinline__ void values_at(const GateArguments& a, int64_t row, int column, float (&x)[8]) {
  const auto* values = reinterpret_cast<const typename Wide<kForm>::Type*>(a.x);
  if (a.gated) {
    const auto* gate = values + (row * a.width + column) * 2;
    float up[8];
    load_eight<kForm>(x, gate);
    load_eight<kForm>(up, gate + 8);
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] = silu_times(x[i], up[i]);
  } else {
    load_eight<kForm>(x, values + row * a.width + column);
  }
  if (a.prequant) {
#pragma unroll
    for (int i = 0; i < 8; ++i) x[i] *= a.prequant[column + i];
  }
}

template <ActivationForm kForm>
__device__ __forceinline__ void* row_of(const GateArguments& a, int64_t row) {
  return static_cast<uint8_t*>(a.out) + row * a.width * bytes_of(kForm);
}

// Scales per token of few rows on Hopper: a cluster of blocks a row.
bool clusters_serve_gate(const CudaQueue& queue, int64_t rows, int64_t width);
void launch_gate_per_token_cluster(const CudaQueue& queue, int64_t rows, ActivationForm form, const GateArguments& a);

}  // namespace qg
