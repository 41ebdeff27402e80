#include "kernels/linear/skinny.cuh"

namespace qg {

SkinnyKernel skinny_kernel_w4(SkinnyFormat format, int token_tiles) {
  switch (format) {
    case SkinnyFormat::w4:
      return device::skinny_for<device::W4<SkinnyFormat::w4>>(token_tiles);
    case SkinnyFormat::w4_zeros:
      return device::skinny_for<device::W4<SkinnyFormat::w4_zeros>>(token_tiles);
    default:
      return device::skinny_for<device::W4<SkinnyFormat::w4_zeros_32>>(token_tiles);
  }
}

}  // namespace qg
