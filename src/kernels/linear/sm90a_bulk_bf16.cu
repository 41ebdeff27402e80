#include "kernels/linear/bulk.cuh"

namespace qg {

BulkKernel bulk_kernel_bf16(int token_tiles) {
  return device::bulk_for<device::Bf16>(token_tiles);
}

}  // namespace qg
