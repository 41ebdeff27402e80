#pragma once
// Hopper's warpgroup products, tensor copies and transaction barriers, one function each. PTX ISA 9.0, sections 9.7.9
// (copies), 9.7.13 (mbarrier) and 9.7.15 (wgmma). Both operands are k-major; rows of 128 bytes lie in shared memory
// with the 128-byte swizzle, in which the copies write them: eight rows are 1024 bytes, and so is the alignment.
#include <cstdint>

namespace qg::device {

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define QG_SM90A 1
#endif

__device__ __forceinline__ uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// Barriers by their shared address.
__device__ __forceinline__ void barrier_init(uint32_t barrier, uint32_t arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}
__device__ __forceinline__ void barrier_arrive(uint32_t barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}
__device__ __forceinline__ void barrier_expect(uint32_t barrier, uint32_t bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}
// A store to address 0: the launch ends with an error. Not a trap: in a kernel that has one, ptxas 13.0 takes no notice
// of setmaxnreg.
__device__ __forceinline__ void fail() {
  asm volatile("st.global.u32 [%0], %1;" ::"l"(uint64_t{0}), "r"(0) : "memory");
}
// Until the phase of this parity has ended. A wait that never ends would hang the card: it becomes an error instead.
__device__ __forceinline__ void barrier_wait(uint32_t barrier, uint32_t parity) {
  uint32_t done = 0;
  for (uint32_t tries = 0; !done; ++tries) {
    asm volatile("{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}"
                 : "=r"(done)
                 : "r"(barrier), "r"(parity)
                 : "memory");
    if (tries > (1u << 28)) fail();
  }
}
// The barrier at the same place in block `rank` of the cluster: PTX ISA 9.0, 9.7.9.24 (mapa).
__device__ __forceinline__ void barrier_arrive_at(uint32_t barrier, uint32_t rank) {
  asm volatile(
      "{\n.reg .b32 there;\nmapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n}" ::"r"(barrier),
      "r"(rank)
      : "memory");
}
// A cluster's threads that have not ended: each says that it is here, and waits for all others.
__device__ __forceinline__ void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
}
__device__ __forceinline__ void cluster_wait() {
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
}
__device__ __forceinline__ int cluster_rank() {
  uint32_t rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return static_cast<int>(rank);
}
// Makes initialized barriers visible to the copy engine.
__device__ __forceinline__ void barrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

// How long copied lines stay in L2: cache hints as createpolicy encodes them.
inline constexpr uint64_t kEvictFirst = 0x12f0000000000000, kEvictNormal = 0x1000000000000000;

// A box of a tensor at (column, row) to shared memory; `bytes` of it count at the barrier, also outside the tensor,
// where it writes zeros.
__device__ __forceinline__ void copy_box(uint32_t to, const void* map, int column, int row, uint32_t barrier,
                                         uint64_t hint) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint"
      " [%0], [%1, {%3, %4}], [%2], %5;" ::"r"(to),
      "l"(map), "r"(barrier), "r"(column), "r"(row), "l"(hint)
      : "memory");
}
// The same to the same place in the blocks of the cluster that `blocks` has bits of, and counted at each one's barrier.
__device__ __forceinline__ void copy_box_to(uint16_t blocks, uint32_t to, const void* map, int column, int row,
                                            uint32_t barrier, uint64_t hint) {
  asm volatile(
      "cp.async.bulk.tensor.2d.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster.L2::cache_hint"
      " [%0], [%1, {%3, %4}], [%2], %5, %6;" ::"r"(to),
      "l"(map), "r"(barrier), "r"(column), "r"(row), "h"(blocks), "l"(hint)
      : "memory");
}
// `bytes`, a multiple of 16, to shared memory.
__device__ __forceinline__ void copy_bytes(uint32_t to, const void* from, uint32_t bytes, uint32_t barrier,
                                           uint64_t hint) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
          "r"(to),
      "l"(from), "r"(bytes), "r"(barrier), "l"(hint)
      : "memory");
}
__device__ __forceinline__ void prefetch_map(const void* map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

// Of rows of 128 bytes with the 128-byte swizzle: start / 16, 1024 / 16 from eight rows to eight rows, swizzle mode 1.
__device__ __forceinline__ uint64_t operand(uint32_t address) {
  return ((address & 0x3ffff) >> 4) | uint64_t{1} << 16 | uint64_t{64} << 32 | uint64_t{1} << 62;
}

__device__ __forceinline__ void wgmma_fence() {
  asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}
__device__ __forceinline__ void wgmma_commit() {
  asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(kPending) : "memory");
}

// A warpgroup's registers a thread, from here on: fewer, or more once others have given theirs.
template <int kCount>
__device__ __forceinline__ void give_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(kCount));
}
template <int kCount>
__device__ __forceinline__ void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(kCount));
}

// Keeps the compiler from moving what it does with sums across products that still run.
template <int kCount>
__device__ __forceinline__ void pin(float (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+f"(d[i])::"memory");
}
template <int kCount>
__device__ __forceinline__ void pin(int (&d)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) asm volatile("" : "+r"(d[i])::"memory");
}

// Says that registers are in use up to here: by products that have now ended.
__device__ __forceinline__ void hold(const uint32_t (&a)[16]) {
#pragma unroll
  for (int i = 0; i < 16; ++i) asm volatile("" ::"r"(a[i]) : "memory");
}

// Operand lists of 16, 32, 64, 96 and 128 sums a thread (32 to 256 columns).
#define QG_NAMES_16 "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15"
#define QG_NAMES_32 \
  QG_NAMES_16       \
  ","               \
  "%16,%17,%18,%19,%20,%21,%22,%23,%24,%25,%26,%27,%28,%29,%30,%31"
#define QG_NAMES_64                                                                                      \
  QG_NAMES_32                                                                                            \
  ","                                                                                                    \
  "%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51,%52,%53,%54,%55,%56," \
  "%57,%58,%59,%60,%61,%62,%63"
#define QG_NAMES_96                                                                                      \
  QG_NAMES_64                                                                                            \
  ","                                                                                                    \
  "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88," \
  "%89,%90,%91,%92,%93,%94,%95"
#define QG_NAMES_128                                                                                     \
  QG_NAMES_64                                                                                            \
  ","                                                                                                    \
  "%64,%65,%66,%67,%68,%69,%70,%71,%72,%73,%74,%75,%76,%77,%78,%79,%80,%81,%82,%83,%84,%85,%86,%87,%88," \
  "%89,%90,%91,%92,%93,%94,%95,%96,%97,%98,%99,%100,%101,%102,%103,%104,%105,%106,%107,%108,%109,%110,"  \
  "%111,%112,%113,%114,%115,%116,%117,%118,%119,%120,%121,%122,%123,%124,%125,%126,%127"
#define QG_SUMS_4(c, i) c(d[i]), c(d[(i) + 1]), c(d[(i) + 2]), c(d[(i) + 3])
#define QG_SUMS_16_AT(c, i) QG_SUMS_4(c, i), QG_SUMS_4(c, (i) + 4), QG_SUMS_4(c, (i) + 8), QG_SUMS_4(c, (i) + 12)
#define QG_SUMS_16(c) QG_SUMS_16_AT(c, 0)
#define QG_SUMS_32(c) QG_SUMS_16(c), QG_SUMS_16_AT(c, 16)
#define QG_SUMS_64(c) QG_SUMS_32(c), QG_SUMS_16_AT(c, 32), QG_SUMS_16_AT(c, 48)
#define QG_SUMS_96(c) QG_SUMS_64(c), QG_SUMS_16_AT(c, 64), QG_SUMS_16_AT(c, 80)
#define QG_SUMS_128(c) \
  QG_SUMS_64(c), QG_SUMS_16_AT(c, 64), QG_SUMS_16_AT(c, 80), QG_SUMS_16_AT(c, 96), QG_SUMS_16_AT(c, 112)

// d = a b, or d += a b where keep: 64 x n columns x 32 bytes of k. p0..p5: the operands after the sums.
#define QG_WGMMA(n, sums, p0, p1, p2, p3, p4, p5)                                                                  \
  __device__ __forceinline__ void wgmma_f16(float(&d)[sums], const uint32_t* a, uint64_t b, int keep) {            \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #p5                                                          \
                 ", 0;\n"                                                                                          \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.f16.f16 {" QG_NAMES_##sums                        \
                 "}, {%" #p0 ",%" #p1 ",%" #p2 ",%" #p3 "}, %" #p4 ", p, 1, 1, 0;\n}"                              \
                 : QG_SUMS_##sums("+f")                                                                            \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep));                                 \
  }                                                                                                                \
  __device__ __forceinline__ void wgmma_f16(float(&d)[sums], uint64_t a, uint64_t b, int keep) {                   \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #p2                                                          \
                 ", 0;\n"                                                                                          \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32.f16.f16 {" QG_NAMES_##sums "}, %" #p0 ", %" #p1   \
                                                                                            ", p, 1, 1, 0, 0;\n}"  \
                 : QG_SUMS_##sums("+f")                                                                            \
                 : "l"(a), "l"(b), "r"(keep));                                                                     \
  }                                                                                                                \
  __device__ __forceinline__ void wgmma_e4m3(float(&d)[sums], uint64_t a, uint64_t b, int keep) {                  \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #p2                                                          \
                 ", 0;\n"                                                                                          \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k32.f32.e4m3.e4m3 {" QG_NAMES_##sums "}, %" #p0 ", %" #p1 \
                                                                                              ", p, 1, 1;\n}"      \
                 : QG_SUMS_##sums("+f")                                                                            \
                 : "l"(a), "l"(b), "r"(keep));                                                                     \
  }                                                                                                                \
  __device__ __forceinline__ void wgmma_s8(int(&d)[sums], uint64_t a, uint64_t b, int keep) {                      \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, %" #p2                                                          \
                 ", 0;\n"                                                                                          \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k32.s32.s8.s8 {" QG_NAMES_##sums "}, %" #p0 ", %" #p1     \
                                                                                          ", p;\n}"                \
                 : QG_SUMS_##sums("+r")                                                                            \
                 : "l"(a), "l"(b), "r"(keep));                                                                     \
  }
QG_WGMMA(32, 16, 16, 17, 18, 19, 20, 21)
QG_WGMMA(64, 32, 32, 33, 34, 35, 36, 37)
QG_WGMMA(128, 64, 64, 65, 66, 67, 68, 69)
QG_WGMMA(192, 96, 96, 97, 98, 99, 100, 101)
QG_WGMMA(256, 128, 128, 129, 130, 131, 132, 133)
#undef QG_WGMMA

// Four 8 x 8 blocks of halves, transposed: lane 8 i + r gives the address of row r of block i, whose columns are the
// fragment's rows.
__device__ __forceinline__ void store_transposed(uint32_t to, uint32_t a, uint32_t b, uint32_t c, uint32_t d) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.trans.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(to), "r"(a), "r"(b),
               "r"(c), "r"(d)
               : "memory");
}

}  // namespace qg::device
