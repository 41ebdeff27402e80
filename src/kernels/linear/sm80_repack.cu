#include <cuda_bf16.h>

#include "kernels/linear/cuda_repack.h"
#include "kernels/linear/mma.cuh"

namespace qg {
namespace {

constexpr int kThreads = 256;

unsigned blocks_for(int64_t threads) {
  return static_cast<unsigned>((threads + kThreads - 1) / kThreads);
}

template <class From, class To>
__global__ void convert_kernel(const From* from, To* to, int64_t n, int64_t k, int64_t pitch, int64_t run,
                               int64_t apart, int* overflows) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= n * k) return;
  const float value = static_cast<float>(from[i]);
  const To rounded = static_cast<To>(value);  // to nearest even
  if (isinf(static_cast<float>(rounded)) && !isinf(value)) *overflows = 1;
  const int64_t row = i / k;
  to[(row / run * apart + row % run) * pitch + i % k] = rounded;
}

__global__ void pack_int4_kernel(Int4Layout layout, const char* codes, uint4* to) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  if (i >= layout.tiles() * layout.chunks() * 32) return;
  const int lane = static_cast<int>(i % 32), g = lane / 4, t = lane % 4;
  const int64_t chunk = i / 32 % layout.chunks(), tile = i / 32 / layout.chunks();
  uint32_t words[4] = {};
  for (int w = 0; w < 4; ++w) {
    const int64_t row = tile * 16 + g + w % 2 * 8;
    for (int j = 0; j < 4; ++j) {
      const int64_t column = chunk * 64 + w / 2 * 32 + 8 * j + 2 * t;
      if (row >= layout.n || column >= layout.k) continue;
      const auto both = static_cast<uint8_t>(codes[row * (layout.k / 2) + column / 2]);
      words[w] |= (both & 15u) << (4 * j) | (both >> 4u) << (4 * j + 16);
    }
  }
  to[i] = make_uint4(words[0], words[1], words[2], words[3]);
}

__global__ void pack_scales_kernel(Int4Layout layout, const float* scales, const uint8_t* zeros, float multiplier,
                                   __half2* to) {
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;  // [tile][group][g][half]
  if (i >= layout.tiles() * layout.groups * 8 * layout.halves) return;
  const int half = static_cast<int>(i % layout.halves), g = static_cast<int>(i / layout.halves % 8);
  const int64_t group = i / layout.halves / 8 % layout.groups, tile = i / layout.halves / 8 / layout.groups;
  const int64_t column = (group << layout.group_shift) * 64 + half * 32, stored = layout.k / layout.group_size;
  float scale[2] = {}, zero[2] = {8, 8};
  for (int r = 0; r < 2; ++r) {
    const int64_t row = tile * 16 + g + 8 * r;
    if (row >= layout.n || column >= layout.k) continue;
    const int64_t at = row * stored + column / layout.group_size;
    scale[r] = scales[at] * multiplier;
    if (zeros) zero[r] = static_cast<float>(zeros[at]);
  }
  __half2* out = to + ((tile * layout.groups + group) * 8 + g) * layout.scale_words();
  out[half] = __floats2half2_rn(scale[0], scale[1]);
  if (layout.zeros) out[layout.halves + half] = __floats2half2_rn(1024 + zero[0], 1024 + zero[1]);
}

__global__ void __launch_bounds__(kThreads)
    expand_int4_kernel(Int4Layout layout, const uint4* weight, const __half2* scales, __half* to) {
  let_next_start();
  const int64_t i = int64_t{blockIdx.x} * kThreads + threadIdx.x;
  const int lane = static_cast<int>(i % 32), g = lane / 4, t = lane % 4;
  const int64_t chunk = i / 32 % layout.chunks(), tile = i / 32 / layout.chunks();
  const bool inside = tile < layout.tiles();
  uint4 v = {};
  if (inside) v = device::load_once(weight + i, device::evict_first_policy());
  wait_for_previous();
  if (!inside) return;  // whole warps
  const __half2* scale =
      scales + ((tile * layout.groups + (chunk >> layout.group_shift)) * 8 + g) * layout.scale_words();
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    const int r = w % 2, half = layout.halves == 2 ? w / 2 : 0;
    const int64_t row = tile * 16 + g + 8 * r, column = chunk * 64 + w / 2 * 32 + 8 * t;
    const __half2 both = scale[half];
    const __half2 zero = layout.zeros ? scale[layout.halves + half] : __half2half2(__ushort_as_half(0x6408));
    const __half2 low = __hneg2(r == 0 ? __low2half2(zero) : __high2half2(zero));
    const __half2 high = __hadd2(low, __half2half2(__ushort_as_half(0x6380)));  // + 960
    const __half2 by = r == 0 ? __low2half2(both) : __high2half2(both);
    uint32_t pair[4];
    device::expand_nibbles(words[w], low, high, pair);
#pragma unroll
    for (int p = 0; p < 4; ++p) pair[p] = device::bits(__hmul2(device::halves(pair[p]), by));
    device::transpose_quad(pair, t);  // from k = 8 i + 2 t to k = 8 t + 2 i
    if (row < layout.n && column < layout.k)
      *reinterpret_cast<uint4*>(to + row * layout.k + column) = make_uint4(pair[0], pair[1], pair[2], pair[3]);
  }
}

__global__ void __launch_bounds__(kThreads) expand_e4m3_kernel(const char* weight, const float* channel_scales,
                                                               __half* to, int64_t n, int64_t k, int64_t pitch) {
  let_next_start();
  const int64_t i = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * 16;
  const int64_t row = i / k, column = i % k;
  uint4 v = {};
  if (row < n) v = device::load_once(weight + row * pitch + column, device::evict_first_policy());
  wait_for_previous();
  if (row >= n) return;
  const float by = (channel_scales ? channel_scales[row] : 1.0f) * device::kExpandedE4m3Factor;
  const uint32_t words[4] = {v.x, v.y, v.z, v.w};
  uint32_t out[8];
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    uint32_t pair[2];
    device::expand_e4m3(words[w], pair);
#pragma unroll
    for (int p = 0; p < 2; ++p) {
      const float2 f = __half22float2(device::halves(pair[p]));
      out[2 * w + p] = device::bits(__floats2half2_rn(f.x * by, f.y * by));
    }
  }
  uint4* store = reinterpret_cast<uint4*>(to + row * k + column);
  store[0] = make_uint4(out[0], out[1], out[2], out[3]);
  store[1] = make_uint4(out[4], out[5], out[6], out[7]);
}

template <bool kIntegers>
__global__ void __launch_bounds__(kThreads)
    scale_sums_kernel(const void* sums, const float* row_scales, float scale, const float* channel_scales, void* y,
                      bool y_f32, int64_t n) {
  let_next_start();
  const int64_t column = (int64_t{blockIdx.x} * kThreads + threadIdx.x) * 4, row = blockIdx.y;
  wait_for_previous();
  if (column >= n) return;
  const float4 channel = *reinterpret_cast<const float4*>(channel_scales + column);
  const float factor = row_scales ? __ldcg(row_scales + row) * scale : scale;
  float4 sum;
  if constexpr (kIntegers) {
    const int4 s = __ldcg(reinterpret_cast<const int4*>(static_cast<const int*>(sums) + row * n + column));
    sum = make_float4(s.x, s.y, s.z, s.w);
  } else {
    sum = __ldcg(reinterpret_cast<const float4*>(static_cast<const float*>(sums) + row * n + column));
  }
  const float4 out = make_float4(sum.x * (factor * channel.x), sum.y * (factor * channel.y),
                                 sum.z * (factor * channel.z), sum.w * (factor * channel.w));
  if (y_f32) {
    *reinterpret_cast<float4*>(static_cast<float*>(y) + row * n + column) = out;
  } else {
    *reinterpret_cast<uint2*>(static_cast<__half*>(y) + row * n + column) =
        make_uint2(device::bits(__floats2half2_rn(out.x, out.y)), device::bits(__floats2half2_rn(out.z, out.w)));
  }
}

}  // namespace

void convert_to_16(DType from_type, const void* from, DType to_type, void* to, int64_t n, int64_t k, int64_t pitch,
                   int64_t run, int64_t apart, int* overflows, cudaStream_t stream) {
  const auto convert = [&](const auto* source, auto* out) {
    launch(CudaQueue{stream, false}, convert_kernel<std::decay_t<decltype(*source)>, std::decay_t<decltype(*out)>>,
           blocks_for(n * k), kThreads, 0, source, out, n, k, pitch, run, apart, overflows);
  };
  auto* halves = static_cast<__half*>(to);
  auto* bfloats = static_cast<__nv_bfloat16*>(to);
  if (to_type == DType::f16 && from_type == DType::bf16)
    convert(static_cast<const __nv_bfloat16*>(from), halves);
  else if (to_type == DType::f16)
    convert(static_cast<const float*>(from), halves);
  else if (from_type == DType::f16)
    convert(static_cast<const __half*>(from), bfloats);
  else
    convert(static_cast<const float*>(from), bfloats);
}

void pack_int4(const Int4Layout& layout, const void* codes, void* to, cudaStream_t stream) {
  launch(CudaQueue{stream, false}, pack_int4_kernel, blocks_for(layout.tiles() * layout.chunks() * 32), kThreads, 0,
         layout, static_cast<const char*>(codes), static_cast<uint4*>(to));
}

void pack_int4_scales(const Int4Layout& layout, const float* scales, const uint8_t* zeros, float multiplier, void* to,
                      cudaStream_t stream) {
  launch(CudaQueue{stream, false}, pack_scales_kernel, blocks_for(layout.tiles() * layout.groups * 8 * layout.halves),
         kThreads, 0, layout, scales, zeros, multiplier, static_cast<__half2*>(to));
}

void expand_int4(const Int4Layout& layout, const void* weight, const void* scales, void* to, const CudaQueue& queue) {
  launch(queue, expand_int4_kernel, blocks_for(layout.tiles() * layout.chunks() * 32), kThreads, 0, layout,
         static_cast<const uint4*>(weight), static_cast<const __half2*>(scales), static_cast<__half*>(to));
}

void expand_e4m3(const void* weight, const float* channel_scales, void* to, int64_t n, int64_t k, int64_t pitch,
                 const CudaQueue& queue) {
  launch(queue, expand_e4m3_kernel, blocks_for(n * k / 16), kThreads, 0, static_cast<const char*>(weight),
         channel_scales, static_cast<__half*>(to), n, k, pitch);
}

void scale_sums(bool integers, const void* sums, const float* row_scales, float scale, const float* channel_scales,
                void* y, bool y_f32, int64_t m, int64_t n, const CudaQueue& queue) {
  launch(queue, integers ? scale_sums_kernel<true> : scale_sums_kernel<false>,
         dim3(blocks_for(n / 4), static_cast<unsigned>(m)), kThreads, 0, sums, row_scales, scale, channel_scales, y,
         y_f32, n);
}

}  // namespace qg
