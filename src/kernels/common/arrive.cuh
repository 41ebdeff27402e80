#pragma once
// Counting blocks in: the last one of those that share a result puts their parts together.
#include <cstdint>

namespace qg {

// Counts one more in; how many were there before. What the block wrote before its last barrier is then visible to whom
// a later count tells so, behind a barrier of theirs. One instruction instead of two fences around an atomic: those are
// sequentially consistent, which nobody needs here and which takes longer.
__device__ __forceinline__ int arrive(int32_t* count) {
  int before;
  asm volatile("atom.acq_rel.gpu.global.add.s32 %0, [%1], 1;" : "=r"(before) : "l"(count) : "memory");
  return before;
}

}  // namespace qg
