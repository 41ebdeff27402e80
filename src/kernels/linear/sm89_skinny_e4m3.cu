#include "kernels/linear/skinny.cuh"

namespace qg {

SkinnyKernel skinny_kernel_e4m3(int token_tiles) {
  return device::skinny_for<device::E4m3>(token_tiles);
}

}  // namespace qg
