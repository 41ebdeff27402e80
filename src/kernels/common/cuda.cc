#include "kernels/common/cuda.h"

#include <fmt/format.h>

#include "core/error.h"
#include "kernels/common/cuda_memory_error.h"

namespace qg {

void check_cuda(cudaError_t status, const char* call) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // so that a handled error is not reported again by a later call
  throw Error(fmt::format("CUDA: {} ({})", cudaGetErrorString(status), cudaGetErrorName(status)), call,
              "run `quantgrid doctor`: it checks driver and card", ExitCode::cannot_here);
}

DeviceCapabilities read_device_capabilities(int device) {
  cudaDeviceProp properties = {};
  QG_CUDA(cudaGetDeviceProperties(&properties, device));
  DeviceCapabilities out;
  out.name = properties.name;
  out.compute_capability = properties.major * 10 + properties.minor;
  out.multiprocessors = properties.multiProcessorCount;
  out.shared_bytes_per_block = static_cast<int64_t>(properties.sharedMemPerBlockOptin);
  out.l2_bytes = properties.l2CacheSize;
  out.memory_bytes = static_cast<int64_t>(properties.totalGlobalMem);
  out.family = family_of(out.compute_capability);
  return out;
}

DeviceBuffer::DeviceBuffer(size_t bytes) {
  if (bytes == 0) return;
  if (cudaMalloc(&data_, bytes) != cudaSuccess) {
    cudaGetLastError();
    size_t free_bytes = 0, total_bytes = 0;
    cudaMemGetInfo(&free_bytes, &total_bytes);
    throw DeviceMemoryError(
        fmt::format("{} bytes of device memory were asked for, {} of {} are free", bytes, free_bytes, total_bytes), "",
        "free the card, take a smaller batch or context, or a smaller weight format", ExitCode::cannot_here);
  }
  bytes_ = bytes;
}

DeviceBuffer::~DeviceBuffer() {
  cudaFree(data_);
}

}  // namespace qg
