#include "kernels/linear/bulk.cuh"

namespace qg {

BulkKernel bulk_kernel_w8(SkinnyFormat format, int token_tiles) {
  return format == SkinnyFormat::e4m3 ? device::bulk_for<device::E4m3>(token_tiles)
                                      : device::bulk_for<device::Int8>(token_tiles);
}

}  // namespace qg
