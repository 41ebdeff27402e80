// RoPE and storing in the cache, one launch. A unit is one head of one row: head_dim / 8 lanes, each with four elements
// of the first half and the four that they are paired with in the second half, so no lane needs another's data.
// Arithmetic is what rope() and kv_encode() do on the CPU, operation by operation, so the stored bytes are equal.
#include <cuda_fp8.h>

#include "core/error.h"
#include "kernels/kvcache/cuda_kernels.h"

namespace qg {
namespace {

constexpr int kThreads = 256;

struct AppendArguments {
  KvLayout layout;
  CudaBatch batch;
  CudaQkv qkv;
  const float2* rope_table;
  __half* q_out;
  std::byte* pool;
  float k_multiplier, v_multiplier;
  bool skip_keys;  // another kernel stores them
  int64_t units;
};

__device__ __forceinline__ float4 read_four(const __half* from) {
  const uint2 bits = *reinterpret_cast<const uint2*>(from);
  const float2 low = __half22float2(*reinterpret_cast<const __half2*>(&bits.x));
  const float2 high = __half22float2(*reinterpret_cast<const __half2*>(&bits.y));
  return {low.x, low.y, high.x, high.y};
}

__device__ __forceinline__ void write_four(__half* to, float4 x) {
  const __half2 low = __floats2half2_rn(x.x, x.y), high = __floats2half2_rn(x.z, x.w);
  *reinterpret_cast<uint2*>(to) = {*reinterpret_cast<const unsigned*>(&low), *reinterpret_cast<const unsigned*>(&high)};
}

__device__ __forceinline__ unsigned int8_code(float x) {
  return static_cast<unsigned>(__float2int_rn(fmaxf(fminf(x, 127.0f), -127.0f))) & 0xffu;
}

template <KvFormat kFormat>
__device__ __forceinline__ void store_four(std::byte* to, float4 x, float multiplier) {
  if constexpr (kFormat == KvFormat::fp16) {
    write_four(reinterpret_cast<__half*>(to), x);
  } else {
    const float a = __fmul_rn(x.x, multiplier), b = __fmul_rn(x.y, multiplier), c = __fmul_rn(x.z, multiplier),
                d = __fmul_rn(x.w, multiplier);
    unsigned codes;
    if constexpr (kFormat == KvFormat::fp8) {
      const unsigned low = __nv_cvt_float2_to_fp8x2({a, b}, __NV_SATFINITE, __NV_E4M3);
      codes = low | static_cast<unsigned>(__nv_cvt_float2_to_fp8x2({c, d}, __NV_SATFINITE, __NV_E4M3)) << 16;
    } else {
      codes = int8_code(a) | int8_code(b) << 8 | int8_code(c) << 16 | int8_code(d) << 24;
    }
    *reinterpret_cast<unsigned*>(to) = codes;
  }
}

// Cosines and sines of four pairs.
struct Angles {
  float4 low, high;  // (cos, sin) of pairs 0, 1; of pairs 2, 3
};

// No fused multiply-add: the reference rounds each product.
__device__ __forceinline__ void rotate(const Angles& angles, float4& a, float4& b) {
  const auto pair = [](float cosine, float sine, float& x, float& y) {
    const float first = __fsub_rn(__fmul_rn(x, cosine), __fmul_rn(y, sine));
    y = __fadd_rn(__fmul_rn(y, cosine), __fmul_rn(x, sine));
    x = first;
  };
  pair(angles.low.x, angles.low.y, a.x, b.x);
  pair(angles.low.z, angles.low.w, a.y, b.y);
  pair(angles.high.x, angles.high.y, a.z, b.z);
  pair(angles.high.z, angles.high.w, a.w, b.w);
}

template <int kHeadDim, KvFormat kFormat>
__global__ void __launch_bounds__(kThreads) append_kernel(const AppendArguments args) {
  constexpr int kLanes = kHeadDim / 8, kHalf = kHeadDim / 2;
  let_next_start();
  const int64_t unit = (static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x) / kLanes;
  const int lane = threadIdx.x % kLanes;
  const int heads = static_cast<int>(args.qkv.heads), kv_heads = static_cast<int>(args.layout.kv_heads);
  const int slots = heads + 2 * kv_heads;
  const int64_t row = unit / slots;
  const int slot = static_cast<int>(unit % slots);
  const bool skipped = args.skip_keys && slot >= heads && slot < heads + kv_heads;
  const bool inside = unit < args.units && !skipped;
  const int position = inside ? args.batch.row_position[row] : -1;
  const bool is_q = slot < heads, is_v = slot >= heads + kv_heads;
  Angles angles = {};
  std::byte* cell = nullptr;
  if (position >= 0 && !is_v) {
    const auto* from =
        reinterpret_cast<const float4*>(args.rope_table + static_cast<int64_t>(position) * kHalf + 4 * lane);
    angles = {from[0], from[1]};
  }
  if (position >= 0 && !is_q) {
    const int page_tokens = static_cast<int>(args.layout.page_tokens);
    const int64_t entry =
        static_cast<int64_t>(args.batch.row_piece[row]) * args.batch.max_pages + position / page_tokens;
    const int kv_head = slot - heads - (is_v ? kv_heads : 0);
    cell = args.pool + args.layout.offset(args.batch.page_table[entry], is_v ? 1 : 0, kv_head, position % page_tokens);
  }
  wait_for_previous();
  if (position < 0) return;
  const __half* from = args.qkv.rows + row * args.qkv.stride + slot * kHeadDim + 4 * lane;
  float4 a = read_four(from), b = read_four(from + kHalf);
  if (!is_v) rotate(angles, a, b);
  if (is_q) {
    __half* to = args.q_out + (row * heads + slot) * kHeadDim + 4 * lane;
    write_four(to, a);
    write_four(to + kHalf, b);
    return;
  }
  constexpr int kElementBytes = kFormat == KvFormat::fp16 ? 2 : 1;
  const float multiplier = is_v ? args.v_multiplier : args.k_multiplier;
  store_four<kFormat>(cell + 4 * lane * kElementBytes, a, multiplier);
  store_four<kFormat>(cell + (kHalf + 4 * lane) * kElementBytes, b, multiplier);
}

template <int kHeadDim>
void launch_append(const CudaQueue& queue, const AppendArguments& args) {
  const int64_t blocks = (args.units * (kHeadDim / 8) + kThreads - 1) / kThreads;
  const dim3 grid(static_cast<unsigned>(blocks));
  switch (args.layout.format) {
    case KvFormat::fp16:
      return launch(queue, append_kernel<kHeadDim, KvFormat::fp16>, grid, dim3(kThreads), 0, args);
    case KvFormat::fp8:
      return launch(queue, append_kernel<kHeadDim, KvFormat::fp8>, grid, dim3(kThreads), 0, args);
    case KvFormat::int8:
      return launch(queue, append_kernel<kHeadDim, KvFormat::int8>, grid, dim3(kThreads), 0, args);
  }
}

}  // namespace

void rope_and_append(const CudaQueue& queue, const KvLayout& layout, const CudaBatch& batch, int64_t rows,
                     const CudaQkv& qkv, const float2* rope_table, KvScale scale, __half* q_out, std::byte* layer_pool,
                     const CudaKvShaping* shaping) {
  if (rows == 0) return;
  AppendArguments args = {};
  args.layout = layout;
  args.batch = batch;
  args.qkv = qkv;
  args.rope_table = rope_table;
  args.q_out = q_out;
  args.pool = layer_pool;
  args.k_multiplier = 1.0f / scale.k;
  args.v_multiplier = 1.0f / scale.v;
  args.skip_keys = shaping != nullptr;
  args.units = rows * (qkv.heads + 2 * layout.kv_heads);
  if (layout.head_dim == 128)
    launch_append<128>(queue, args);
  else if (layout.head_dim == 64)
    launch_append<64>(queue, args);
  else
    throw Error("The KV cache has a head size that the GPU kernels are not built for", "", "head sizes are 64 and 128");
  if (shaping == nullptr) return;
  kvcache::launch_shaped(queue, {layout, batch, qkv, *shaping, rope_table, q_out, layer_pool, args.k_multiplier, rows});
}

}  // namespace qg
