#include "kernels/linear/wide.cuh"

namespace qg {

const WideKernel* wide_kernels_f16(int& count) {
  static const WideKernel kernels[] = {
      device::wide_kernel<WideFormat::f16, 32, 2, 1, 5, 2>(),
      device::wide_kernel<WideFormat::f16, 64, 2, 1, 4, 2>(),
      device::wide_kernel<WideFormat::f16, 128, 2, 1, 6, 1>(),
      device::wide_kernel<WideFormat::f16, 256, 2, 1, 4, 1, 2>(),
      device::wide_kernel<WideFormat::f16, 128, 2, 2, 4, 1>(),
  };
  count = sizeof kernels / sizeof kernels[0];
  return kernels;
}

}  // namespace qg
