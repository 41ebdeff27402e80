#pragma once
// How the kernels that sample give a token out.
#include "kernels/pointwise/cuda.h"

namespace qg {

__device__ __forceinline__ int token_place(const TokenTarget& to, int row) {
  return (to.first ? *to.first : 0) + row;
}

__device__ __forceinline__ void store_token(const TokenTarget& to, int row, int32_t token) {
  const int place = token_place(to, row);
  to.device[place] = token;
  if (to.host) *static_cast<volatile int32_t*>(to.host + place) = token;
}

}  // namespace qg
