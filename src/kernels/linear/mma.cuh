#pragma once
// The instructions that the linear kernels are made of, one function each. PTX ISA 9.0, sections 9.7.9 (loads, async
// copies) and 9.7.14 (mma). Fragment layouts, lane = 4 g + t: A has rows g and g + 8, B column g, D columns 2t, 2t + 1
// of rows g and g + 8.
#include <cuda_fp16.h>

#include <cstdint>

#include "kernels/common/arrive.cuh"
#include "kernels/linear/cuda_ahead.h"

namespace qg::device {

// d += a b, 16 x 8 x 16 halves.
__device__ __forceinline__ void mma_f16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                        uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// The same with bfloat16.
__device__ __forceinline__ void mma_bf16(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                         uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// d += a b, 16 x 8 x 32 int8.
__device__ __forceinline__ void mma_s8(int (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                       uint32_t b1) {
  asm("mma.sync.aligned.m16n8k32.row.col.s32.s8.s8.s32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+r"(d[0]), "+r"(d[1]), "+r"(d[2]), "+r"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
}

// d += a b, 16 x 8 x 32 e4m3; sm_89 and later.
__device__ __forceinline__ void mma_e4m3(float (&d)[4], uint32_t a0, uint32_t a1, uint32_t a2, uint32_t a3, uint32_t b0,
                                         uint32_t b1) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 890
  asm("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, {%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a0), "r"(a1), "r"(a2), "r"(a3), "r"(b0), "r"(b1));
#else
  __trap();  // never chosen on such a card
#endif
}

// Read once: keeps nothing in L1 and leaves L2 first. Not .nc: ptxas 13.0 moves such loads behind griddepcontrol.wait,
// so that nothing would be in flight while a kernel waits for the one before it.
__device__ __forceinline__ uint64_t evict_first_policy() {
  uint64_t policy;
  asm("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  return policy;
}
__device__ __forceinline__ uint4 load_once(const void* from, uint64_t policy) {
  uint4 v;
  asm volatile("ld.global.L1::no_allocate.L2::cache_hint.L2::128B.v4.u32 {%0,%1,%2,%3}, [%4], %5;"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from), "l"(policy));
  return v;
}
__device__ __forceinline__ uint32_t load_u32(const void* from) {
  uint32_t v;
  asm volatile("ld.global.u32 %0, [%1];" : "=r"(v) : "l"(from));
  return v;
}

// `part` of what the next layer reads first, into L2: by one lane. Nothing before sm_90.
__device__ __forceinline__ void ask_ahead(const WeightsAhead& ahead, int part) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  const auto ask = [part](const void* data, uint32_t bytes) {
    if (bytes > 0)
      asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(static_cast<const char*>(data) +
                                                                      static_cast<int64_t>(part) * bytes),
                   "r"(bytes)
                   : "memory");
  };
  ask(ahead.weight, ahead.weight_bytes);
  ask(ahead.scales, ahead.scale_bytes);
#endif
}

// 16 bytes from global to shared memory without registers; zeros when !valid.
__device__ __forceinline__ void copy_async_16(void* shared, const void* global, bool valid) {
  const uint32_t to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(global), "r"(valid ? 16 : 0) : "memory");
}
__device__ __forceinline__ void copy_async_wait_all() {
  asm volatile("cp.async.wait_all;" ::: "memory");
}

// Four 8 x 8 blocks of halves: lane 8 i + r gives the address of row r of block i; word i of lane 4 g + t is row g,
// columns 2 t and 2 t + 1 of block i. May be moved: the address must come out of after_barrier().
__device__ __forceinline__ uint4 load_matrices(const void* shared) {
  const uint32_t from = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  uint4 v;
  asm("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
      : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
      : "r"(from));
  return v;
}

// Ties what is read at an address to the barrier before this call.
__device__ __forceinline__ int after_barrier(int address) {
  asm volatile("" : "+r"(address)::"memory");
  return address;
}

// Words j of lanes 4 g + t become words t of lanes 4 g + j.
__device__ __forceinline__ void transpose_quad(uint32_t (&word)[4], int t) {
#pragma unroll
  for (int step = 1; step <= 2; step *= 2) {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if (i & step) continue;
      uint32_t &low = word[i], &high = word[i + step];
      const uint32_t other = __shfl_xor_sync(0xffffffffu, t & step ? low : high, step);
      low = t & step ? other : low;
      high = t & step ? high : other;
    }
  }
}

// Among `threads` threads of the block, a multiple of 32; id 1..15.
__device__ __forceinline__ void barrier(int id, int threads) {
  asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(threads) : "memory");
}

__device__ __forceinline__ uint32_t bits(__half2 v) {
  return *reinterpret_cast<uint32_t*>(&v);
}
__device__ __forceinline__ __half2 halves(uint32_t v) {
  return *reinterpret_cast<__half2*>(&v);
}

// (v & mask) | with, in one instruction.
template <uint32_t kMask, uint32_t kWith>
__device__ __forceinline__ uint32_t and_or(uint32_t v) {
  uint32_t r;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(r) : "r"(v), "n"(kMask), "n"(kWith));
  return r;
}

// Eight nibbles of a word of Int4Layout to halves: 1024 + u is the half with bits 0x6400 | u, and 1024 + 16 u that with
// 0x6400 | u << 4 (Kim et al., "Who Says Elephants Can't Run", 2022). pair[i] = (nibble i, nibble i + 4) - zero, exact.
// low = -(1024 + zero), high = -(64 + zero), twice each.
__device__ __forceinline__ void expand_nibbles(uint32_t v, __half2 low, __half2 high, uint32_t (&pair)[4]) {
  const __half2 sixteenth = __half2half2(__ushort_as_half(0x2c00));
  pair[0] = bits(__hadd2(halves(and_or<0x000f000f, 0x64006400>(v)), low));
  pair[1] = bits(__hfma2(halves(and_or<0x00f000f0, 0x64006400>(v)), sixteenth, high));
  v >>= 8;
  pair[2] = bits(__hadd2(halves(and_or<0x000f000f, 0x64006400>(v)), low));
  pair[3] = bits(__hfma2(halves(and_or<0x00f000f0, 0x64006400>(v)), sixteenth, high));
}

// Four e4m3 to halves by moving bits: s.eeee.mmm lands in s.0eeee.mmm0000000, which is the value / 256, exact for
// subnormals too. pair[0] = bytes 0 and 1, pair[1] = bytes 2 and 3. Works on every card.
inline constexpr float kExpandedE4m3Factor = 256.0f;
__device__ __forceinline__ void expand_e4m3(uint32_t v, uint32_t (&pair)[2]) {
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const uint32_t high = __byte_perm(v, 0, i == 0 ? 0x1404 : 0x3424);  // each byte to the top of its half
    pair[i] = ((high >> 1) & 0x3f803f80) | (high & 0x80008000);
  }
}

}  // namespace qg::device
