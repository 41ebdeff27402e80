#include "kernels/linear/bulk.cuh"

namespace qg {

BulkKernel bulk_kernel_w4(SkinnyFormat format, int token_tiles) {
  switch (format) {
    case SkinnyFormat::w4:
      return device::bulk_for<device::W4<SkinnyFormat::w4>>(token_tiles);
    case SkinnyFormat::w4_zeros:
      return device::bulk_for<device::W4<SkinnyFormat::w4_zeros>>(token_tiles);
    default:
      return device::bulk_for<device::W4<SkinnyFormat::w4_zeros_32>>(token_tiles);
  }
}

}  // namespace qg
