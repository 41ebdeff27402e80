#include "kernels/linear/bulk.cuh"

namespace qg {

BulkKernel bulk_kernel_w16(SkinnyFormat format, int token_tiles) {
  return format == SkinnyFormat::f16 ? device::bulk_for<device::F16>(token_tiles)
                                     : device::bulk_for<device::E4m3F16>(token_tiles);
}

}  // namespace qg
