#pragma once
// Tensors in page-locked memory, which goes back to the pool when the last view of it is gone: results come off the
// card at full speed, and no memory is locked again for each layer.
#include <map>
#include <memory>
#include <mutex>

#include "core/tensor.h"
#include "runtime/cuda_batch.h"

namespace qg {

class PinnedPool {
 public:
  NewTensor take(DType type, Shape shape) {
    Tensor tensor;
    tensor.dtype = type;
    tensor.shape = std::move(shape);
    const size_t bytes = tensor.bytes();
    if (bytes < kSmallest) return new_tensor(type, tensor.shape);
    std::shared_ptr<PinnedBuffer> buffer;
    {
      const std::lock_guard lock(free_->mutex);
      const auto found = free_->buffers.find(bytes);
      if (found != free_->buffers.end()) {
        buffer = std::move(found->second);
        free_->buffers.erase(found);
      }
    }
    if (!buffer) buffer = std::make_shared<PinnedBuffer>(bytes);
    std::byte* data = buffer->as<std::byte>();
    tensor.data = data;
    tensor.owner = std::shared_ptr<const void>(data, [free = free_, buffer, bytes](const void*) {
      const std::lock_guard lock(free->mutex);
      free->buffers.emplace(bytes, buffer);
    });
    return {tensor, data};
  }

 private:
  static constexpr size_t kSmallest = size_t{1} << 20;
  struct Free {
    std::mutex mutex;
    std::multimap<size_t, std::shared_ptr<PinnedBuffer>> buffers;  // by size
  };
  std::shared_ptr<Free> free_ = std::make_shared<Free>();
};

}  // namespace qg
