// Choosing the grids of int4 groups: a warp a group.
#include "kernels/quantize/rounding.cuh"

namespace qg {
namespace {

constexpr int kWarps = 8;
constexpr unsigned kAll = ~0u;

struct Grid {
  float scale = 1, zero = 8;
};

// The grid that spans a share of the range (src/quantize/int4.cc).
__device__ Grid spanning_grid(float low, float high, float share, bool zero_points) {
  low = __fmul_rn(fminf(low, 0.0f), share);
  high = __fmul_rn(fmaxf(high, 0.0f), share);
  Grid g;
  if (zero_points) {
    g.scale = __fdiv_rn(__fadd_rn(high, -low), 15.0f);
    if (!(g.scale > 1e-12f)) return {1.0f, 8.0f};
    g.zero = fminf(fmaxf(rintf(__fdiv_rn(-low, g.scale)), 0.0f), 15.0f);
    return g;
  }
  g.scale = fmaxf(__fdiv_rn(high, 7.0f), __fdiv_rn(-low, 8.0f));
  if (!(g.scale > 1e-12f)) g.scale = 1.0f;
  return g;
}

template <class Combine>
__device__ __forceinline__ float reduce_warp(float v, Combine combine) {
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) v = combine(v, __shfl_xor_sync(kAll, v, offset));
  return v;
}

template <int kEach>  // columns of a lane
__global__ void __launch_bounds__(kWarps * 32) trial_of_group(const float* w, int64_t n, int64_t k, Int4Trial t) {
  constexpr int kGroup = kEach * 32;
  const int64_t groups = k / kGroup, lane = threadIdx.x % 32;
  const int64_t at = blockIdx.x * static_cast<int64_t>(kWarps) + threadIdx.x / 32;  // row * groups + group
  if (at >= n * groups) return;
  const int64_t column = at % groups * kGroup + lane, first = at / groups * k + column;
  float original[kEach], x[kEach], weight[kEach];
  float low = 3e38f, high = -3e38f;
#pragma unroll
  for (int i = 0; i < kEach; ++i) {
    original[i] = w[first + i * 32];
    x[i] = t.up ? __fmul_rn(original[i], t.up[column + i * 32]) : original[i];
    weight[i] = t.importance[column + i * 32];
    low = fminf(low, x[i]);
    high = fmaxf(high, x[i]);
  }
  low = reduce_warp(low, [](float a, float b) { return fminf(a, b); });
  high = reduce_warp(high, [](float a, float b) { return fmaxf(a, b); });
  Grid best = spanning_grid(low, high, 1.0f, t.zero_points);
  float least = 3e38f;
  for (int step = 0; step <= t.clip_steps && t.clip_steps > 0; ++step) {
    const float share = __fadd_rn(1.05f, -__fmul_rn(0.025f, static_cast<float>(step)));
    const Grid g = spanning_grid(low, high, share, t.zero_points);
    float error = 0;
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const float gap = __fadd_rn(x[i], -int4_value(int4_code(x[i], g.scale, g.zero), g.scale, g.zero));
      error += __fmul_rn(__fmul_rn(weight[i], gap), gap);
    }
    error = reduce_warp(error, [](float a, float b) { return a + b; });
    if (error < least) {
      least = error;
      best = g;
    }
  }
  if (t.delta) {
#pragma unroll
    for (int i = 0; i < kEach; ++i) {
      const float value = int4_value(int4_code(x[i], best.scale, best.zero), best.scale, best.zero);
      t.delta[first + i * 32] = __float2half_rn(original[i] - (t.down ? value * t.down[column + i * 32] : value));
    }
  }
  if (lane == 0 && t.scales) {
    t.scales[at] = best.scale;
    t.zeros[at] = static_cast<uint8_t>(best.zero);
  }
}

}  // namespace

void int4_trial(const CudaQueue& queue, const float* w, int64_t n, int64_t k, const Int4Trial& trial) {
  const auto kernel = trial.group == 128  ? trial_of_group<4>
                      : trial.group == 64 ? trial_of_group<2>
                                          : trial_of_group<1>;
  const int64_t groups = n * (k / trial.group);
  launch(queue, kernel, dim3(static_cast<unsigned>((groups + kWarps - 1) / kWarps)), dim3(kWarps * 32), 0, w, n, k,
         trial);
}

}  // namespace qg
