// Keys and queries around a shaped 8-bit cache (docs/kv-cache-notes.md). Keys: a warp a row and KV head, lane i owns
// head_dim / 32 consecutive elements; every product and sum is rounded by itself, in the order of store_shaped_key, so
// the stored bytes are equal to the CPU's. Queries: one small matrix product a KV head on the tensor cores.
#include <cuda_fp8.h>

#include "core/error.h"
#include "kernels/attention/cuda_tile.h"
#include "kernels/kvcache/cuda_kernels.h"

namespace qg::kvcache {
namespace {

using namespace attention;

constexpr int kKeyWarps = 8, kQueryWarps = 4, kQueryRows = 16 * kQueryWarps;

template <KvFormat kFormat>
__device__ __forceinline__ uint32_t encode(float x, float& value) {
  if constexpr (kFormat == KvFormat::fp8) {
    const __nv_fp8_storage_t code = __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
    value = __half2float(__half(__nv_cvt_fp8_to_halfraw(code, __NV_E4M3)));
    return code;
  } else {
    const int code = __float2int_rn(fmaxf(fminf(x, 127.0f), -127.0f));
    value = static_cast<float>(code);
    return static_cast<uint32_t>(code) & 0xffu;
  }
}

// kCount consecutive halves, 4 or 8 bytes.
template <int kCount>
__device__ __forceinline__ void read_halves(const __half* from, float (&x)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; i += 2) {
    const float2 two = __half22float2(*reinterpret_cast<const __half2*>(from + i));
    x[i] = two.x, x[i + 1] = two.y;
  }
}

// The lane's elements of one key after RoPE.
template <int kHeadDim, int kCount>
__device__ __forceinline__ void rotate_key(const ShapedArguments& args, int64_t row, int kv_head, int position,
                                           int lane, float (&x)[kCount]) {
  const __half* from = args.qkv.rows + row * args.qkv.stride + (args.qkv.heads + kv_head) * kHeadDim;
  read_halves(from + kCount * lane, x);
  const float2* angles = args.rope_table + static_cast<int64_t>(position) * (kHeadDim / 2) + kCount * (lane % 16);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const float other = __shfl_xor_sync(0xffffffffu, x[i], 16);
    const float2 angle = angles[i];
    x[i] = lane < 16 ? __fsub_rn(__fmul_rn(x[i], angle.x), __fmul_rn(other, angle.y))
                     : __fadd_rn(__fmul_rn(x[i], angle.x), __fmul_rn(other, angle.y));
  }
}

template <int kHeadDim, KvFormat kFormat>
__global__ void __launch_bounds__(32 * kKeyWarps) key_kernel(const ShapedArguments args, int rows_per_block) {
  constexpr int kCount = kHeadDim / 32;
  extern __shared__ __align__(16) __half matrices[];
  __half *transform = matrices, *feedback = matrices + kHeadDim * kHeadDim;
  let_next_start();
  const int kv_head = blockIdx.y, lane = threadIdx.x % 32;
  const int64_t matrix = static_cast<int64_t>(kv_head) * kHeadDim * kHeadDim;
  for (int i = threadIdx.x; i < kHeadDim * kHeadDim / 8; i += blockDim.x) {
    reinterpret_cast<uint4*>(transform)[i] = reinterpret_cast<const uint4*>(args.shaping.k_transform + matrix)[i];
    reinterpret_cast<uint4*>(feedback)[i] = reinterpret_cast<const uint4*>(args.shaping.k_feedback + matrix)[i];
  }
  __syncthreads();
  float center[kCount], own[kCount][kCount];  // own: the rows and columns of the feedback that are this lane's
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    center[i] = args.shaping.k_center[kv_head * kHeadDim + kCount * lane + i];
    read_halves(feedback + (kCount * lane + i) * kHeadDim + kCount * lane, own[i]);
  }
  wait_for_previous();
  const int64_t first = static_cast<int64_t>(blockIdx.x) * rows_per_block;
  for (int64_t row = first + threadIdx.x / 32; row < min(first + rows_per_block, args.rows); row += kKeyWarps) {
    const int position = args.batch.row_position[row];
    if (position < 0) continue;
    float z[kCount], t[kCount] = {};
    rotate_key<kHeadDim>(args, row, kv_head, position, lane, z);
#pragma unroll
    for (int i = 0; i < kCount; ++i) z[i] = __fsub_rn(z[i], center[i]);
    for (int owner = 0; owner < 32; ++owner) {
#pragma unroll
      for (int e = 0; e < kCount; ++e) {
        float line[kCount];
        read_halves(transform + (kCount * owner + e) * kHeadDim + kCount * lane, line);
        const float by = __shfl_sync(0xffffffffu, z[e], owner);
#pragma unroll
        for (int i = 0; i < kCount; ++i) {
          const float product = __fmul_rn(line[i], by);
          t[i] = owner == 0 && e == 0 ? product : __fadd_rn(t[i], product);
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kCount; ++i) t[i] = __fmul_rn(t[i], args.k_multiplier);
    uint32_t codes = 0;
    for (int owner = 0; owner < 32; ++owner) {
      // Every lane rounds its own elements; only the owner's are final, and their errors go to all.
      float u[kCount], error[kCount];
      uint32_t mine = 0;
#pragma unroll
      for (int i = 0; i < kCount; ++i) u[i] = t[i];
#pragma unroll
      for (int e = 0; e < kCount; ++e) {
        float value;
        mine |= encode<kFormat>(u[e], value) << (8 * e);
        error[e] = __fsub_rn(u[e], value);
#pragma unroll
        for (int i = e + 1; i < kCount; ++i) u[i] = __fsub_rn(u[i], __fmul_rn(error[e], own[e][i]));
      }
      if (lane == owner) codes = mine;
#pragma unroll
      for (int e = 0; e < kCount; ++e) {
        float line[kCount];
        read_halves(feedback + (kCount * owner + e) * kHeadDim + kCount * lane, line);
        const float by = __shfl_sync(0xffffffffu, error[e], owner);
#pragma unroll
        for (int i = 0; i < kCount; ++i) t[i] = __fsub_rn(t[i], __fmul_rn(by, line[i]));
      }
    }
    const int page_tokens = static_cast<int>(args.layout.page_tokens);
    const int64_t entry =
        static_cast<int64_t>(args.batch.row_piece[row]) * args.batch.max_pages + position / page_tokens;
    std::byte* cell = args.pool + args.layout.offset(args.batch.page_table[entry], 0, kv_head, position % page_tokens) +
                      kCount * lane;
    if constexpr (kCount == 4)
      *reinterpret_cast<uint32_t*>(cell) = codes;
    else
      *reinterpret_cast<uint16_t*>(cell) = static_cast<uint16_t>(codes);
  }
}

// q' = q Q in place, for the (row, head) pairs of a KV head; a warp takes 16 of them.
template <int kHeadDim>
__global__ void __launch_bounds__(32 * kQueryWarps) query_kernel(const ShapedArguments args) {
  constexpr int kRowBytes = kHeadDim * 2, kTiles = kHeadDim / 16;
  extern __shared__ __align__(128) std::byte matrix[];
  let_next_start();
  const int kv_head = blockIdx.y, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const auto* from =
      reinterpret_cast<const uint4*>(args.shaping.q_transform + static_cast<int64_t>(kv_head) * kHeadDim * kHeadDim);
  for (int i = threadIdx.x; i < kHeadDim * kHeadDim / 8; i += blockDim.x)
    *reinterpret_cast<uint4*>(matrix + swizzled<kRowBytes>(i / (kHeadDim / 8), i % (kHeadDim / 8))) = from[i];
  __syncthreads();
  wait_for_previous();
  const int heads = static_cast<int>(args.qkv.heads), group = heads / static_cast<int>(args.layout.kv_heads);
  const int64_t pairs = args.rows * group;
  __half* lines[2];  // of rows lane / 4 and lane / 4 + 8
  bool exists[2];
  uint32_t a[kTiles][4];
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int64_t pair = static_cast<int64_t>(blockIdx.x) * kQueryRows + 16 * warp + lane / 4 + 8 * half;
    exists[half] = pair < pairs;
    const int64_t at = exists[half] ? pair : 0;
    lines[half] = args.q + ((at / group) * heads + kv_head * group + at % group) * kHeadDim;
#pragma unroll
    for (int k = 0; k < kTiles; ++k) {
      const uint32_t* two = reinterpret_cast<const uint32_t*>(lines[half] + 16 * k + lane % 4 * 2);
      a[k][half] = exists[half] ? two[0] : 0;
      a[k][half + 2] = exists[half] ? two[4] : 0;
    }
  }
  const uint32_t shared = shared_address(matrix);
#pragma unroll
  for (int n = 0; n < kTiles; ++n) {
    float c[2][4] = {};
#pragma unroll
    for (int k = 0; k < kTiles; ++k) {
      uint32_t b[4];
      load_matrices_transposed(b, shared + swizzled<kRowBytes>(16 * k + lane % 16, 2 * n + lane / 16));
      multiply_add(c[0], a[k], b[0], b[1]);
      multiply_add(c[1], a[k], b[2], b[3]);
    }
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      if (!exists[half]) continue;
      auto* to = reinterpret_cast<uint32_t*>(lines[half] + 16 * n + lane % 4 * 2);
      to[0] = pack_half2(c[0][2 * half], c[0][2 * half + 1]);
      to[4] = pack_half2(c[1][2 * half], c[1][2 * half + 1]);
    }
  }
}

template <int kHeadDim, KvFormat kFormat>
void launch_keys(const CudaQueue& queue, const ShapedArguments& args) {
  constexpr int kSharedBytes = 2 * kHeadDim * kHeadDim * 2;
  const auto kernel = key_kernel<kHeadDim, kFormat>;
  static const bool prepared = [&] {
    QG_CUDA(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes));
    return true;
  }();
  static_cast<void>(prepared);
  // Many rows share the matrices that a block has fetched.
  const int64_t rows_per_block = args.rows <= 256 ? kKeyWarps : 8 * kKeyWarps;
  const dim3 grid(static_cast<unsigned>((args.rows + rows_per_block - 1) / rows_per_block),
                  static_cast<unsigned>(args.layout.kv_heads));
  launch(queue, kernel, grid, dim3(32 * kKeyWarps), kSharedBytes, args, static_cast<int>(rows_per_block));
}

template <int kHeadDim>
void launch_head_dim(const CudaQueue& queue, const ShapedArguments& args) {
  if (args.layout.format == KvFormat::fp8)
    launch_keys<kHeadDim, KvFormat::fp8>(queue, args);
  else
    launch_keys<kHeadDim, KvFormat::int8>(queue, args);
  const int64_t pairs = args.rows * args.qkv.heads / args.layout.kv_heads;
  const dim3 grid(static_cast<unsigned>((pairs + kQueryRows - 1) / kQueryRows),
                  static_cast<unsigned>(args.layout.kv_heads));
  launch(queue, query_kernel<kHeadDim>, grid, dim3(32 * kQueryWarps), kHeadDim * kHeadDim * 2, args);
}

}  // namespace

void launch_shaped(const CudaQueue& queue, const ShapedArguments& args) {
  if (args.layout.format == KvFormat::fp16) throw Error("A cache of fp16 is never shaped");
  if (args.layout.head_dim == 128) return launch_head_dim<128>(queue, args);
  launch_head_dim<64>(queue, args);
}

}  // namespace qg::kvcache
