#include "kernels/linear/skinny.cuh"

namespace qg {

SkinnyKernel skinny_kernel_w16(SkinnyFormat format, int token_tiles) {
  return format == SkinnyFormat::f16 ? device::skinny_for<device::F16>(token_tiles)
                                     : device::skinny_for<device::E4m3F16>(token_tiles);
}

}  // namespace qg
