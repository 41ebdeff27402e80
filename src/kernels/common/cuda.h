#pragma once
// The little of the CUDA runtime that every kernel file needs: checked calls, buffers, launches in a chain.
#include <cuda_runtime.h>

#include <cstddef>
#include <cstdint>
#include <utility>

#include "kernels/common/device.h"

namespace qg {

// Throws Error (exit code 4) that names the call and CUDA's reason.
void check_cuda(cudaError_t status, const char* call);
#define QG_CUDA(call) ::qg::check_cuda((call), #call)

DeviceCapabilities read_device_capabilities(int device);

// Device memory that belongs to its holder. Throws Error with the sizes asked for and free when there is not enough.
class DeviceBuffer {
 public:
  DeviceBuffer() = default;
  explicit DeviceBuffer(size_t bytes);
  ~DeviceBuffer();
  DeviceBuffer(DeviceBuffer&& other) noexcept { *this = std::move(other); }
  DeviceBuffer& operator=(DeviceBuffer&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  std::byte* data() const { return data_; }
  template <class T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }
  size_t bytes() const { return bytes_; }

 private:
  std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

// Of a block's shared memory, what every card gives: those of sm_86 and sm_89 no more than this. Kernels of the
// portable families keep to it, or ask what the card has.
constexpr size_t kLeastSharedBytes = 99 * 1024;

// Where kernels go. chained: each kernel may start before the one before it has ended (programmatic dependent launch,
// sm_90 only): it loads what does not depend on it (weights), then calls wait_for_previous(). Every kernel of a chain
// must call both functions below, or it must be launched with chained = false.
// shared_percent: the share of a multiprocessor's first-level memory that every kernel asks for as shared memory. A
// multiprocessor changes it only when it is empty, so that kernels of one chain overlap only where they agree.
// -1: what is set for each kernel.
struct CudaQueue {
  cudaStream_t stream = nullptr;
  bool chained = false;
  int shared_percent = -1;
};

// cluster: blocks that reach each other's shared memory (sm_90); 1: none.
template <class... Parameters, class... Arguments>
void launch_clusters(const CudaQueue& queue, unsigned cluster, void (*kernel)(Parameters...), dim3 grid, dim3 block,
                     size_t shared_bytes, Arguments&&... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  config.stream = queue.stream;
  cudaLaunchAttribute attributes[3] = {};
  const auto add = [&](cudaLaunchAttributeID id) -> cudaLaunchAttributeValue& {
    attributes[config.numAttrs].id = id;
    return attributes[config.numAttrs++].val;
  };
  if (queue.chained) add(cudaLaunchAttributeProgrammaticStreamSerialization).programmaticStreamSerializationAllowed = 1;
  if (queue.shared_percent >= 0)
    add(cudaLaunchAttributePreferredSharedMemoryCarveout).sharedMemCarveout =
        static_cast<unsigned>(queue.shared_percent);
  if (cluster > 1) {
    auto& size = add(cudaLaunchAttributeClusterDimension).clusterDim;
    size.x = cluster;
    size.y = size.z = 1;
  }
  config.attrs = attributes;
  QG_CUDA(cudaLaunchKernelEx(&config, kernel, Parameters(std::forward<Arguments>(arguments))...));
}

template <class... Parameters, class... Arguments>
void launch(const CudaQueue& queue, void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
            Arguments&&... arguments) {
  launch_clusters(queue, 1, kernel, grid, block, shared_bytes, std::forward<Arguments>(arguments)...);
}

#if defined(__CUDACC__)
// Until the kernel before this one has ended and its writes are visible. Does nothing before sm_90.
__device__ __forceinline__ void wait_for_previous() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

// The next kernel may start its independent part now. Call it early: it orders nothing.
__device__ __forceinline__ void let_next_start() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
#endif

}  // namespace qg
