#include "kernels/linear/skinny.cuh"

namespace qg {

SkinnyKernel skinny_kernel_int8(int token_tiles) {
  return device::skinny_for<device::Int8>(token_tiles);
}

}  // namespace qg
