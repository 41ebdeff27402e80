#include "kernels/linear/skinny.cuh"

namespace qg {

SkinnyKernel skinny_kernel_bf16(int token_tiles) {
  return device::skinny_for<device::Bf16>(token_tiles);
}

}  // namespace qg
