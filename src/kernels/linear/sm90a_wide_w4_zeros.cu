#include "kernels/linear/wide.cuh"

namespace qg {

const WideKernel* wide_kernels_w4_zeros(int& count) {
  static const WideKernel kernels[] = {
      device::wide_kernel<WideFormat::w4_zeros, 32, 2, 2, 7, 1>(),
      device::wide_kernel<WideFormat::w4_zeros, 64, 2, 2, 6, 1>(),
      device::wide_kernel<WideFormat::w4_zeros, 128, 2, 1, 4, 1>(),
      device::wide_kernel<WideFormat::w4_zeros, 128, 3, 1, 4, 1>(),
      device::wide_kernel<WideFormat::w4_zeros, 192, 2, 1, 3, 1>(),
      device::wide_kernel<WideFormat::w4_zeros, 128, 2, 2, 4, 1>(),
      // Of 64 features: more tiles than a layer of few features has otherwise, each with half the weights to read.
      device::wide_kernel<WideFormat::w4_zeros, 32, 1, 1, 6, 2>(),
      device::wide_kernel<WideFormat::w4_zeros, 64, 1, 1, 4, 2>(),
  };
  count = sizeof kernels / sizeof kernels[0];
  return kernels;
}

}  // namespace qg
