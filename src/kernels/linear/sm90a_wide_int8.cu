#include "kernels/linear/wide.cuh"

namespace qg {

const WideKernel* wide_kernels_int8(int& count) {
  static const WideKernel kernels[] = {
      device::wide_kernel<WideFormat::int8, 32, 2, 1, 5, 2>(),
      device::wide_kernel<WideFormat::int8, 64, 2, 1, 4, 2>(),
      device::wide_kernel<WideFormat::int8, 128, 2, 1, 6, 1>(),
      device::wide_kernel<WideFormat::int8, 128, 3, 1, 5, 1>(),
      device::wide_kernel<WideFormat::int8, 256, 2, 1, 4, 1, 2>(),
      device::wide_kernel<WideFormat::int8, 128, 2, 2, 4, 1>(),
      // Of 64 features: more tiles than a layer of few features has otherwise, each with half the weights to read.
      device::wide_kernel<WideFormat::int8, 32, 1, 1, 8, 2>(),
      device::wide_kernel<WideFormat::int8, 64, 1, 1, 6, 2>(),
      device::wide_kernel<WideFormat::int8, 128, 1, 1, 4, 2>(),
  };
  count = sizeof kernels / sizeof kernels[0];
  return kernels;
}

}  // namespace qg
