#pragma once
// Host memory to the device: threads fill pinned buffers in turn, and the card takes one while they fill the next. A
// plain copy from pageable memory, such as a mapped file, is one thread's work and uses a fraction of the bus.
#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>

#include "kernels/common/cuda.h"

namespace qg {

// Copies are ordered before later work on the default stream; others must be kept back by wait(). One thread uses it.
class CudaUpload {
 public:
  CudaUpload() = default;
  ~CudaUpload();
  CudaUpload(const CudaUpload&) = delete;
  CudaUpload& operator=(const CudaUpload&) = delete;

  // to [rows, pitch bytes] on the device; fill(row, out) writes the `pitch` bytes of one row, and is called from
  // several threads. What it read may go when this returns.
  void rows(std::byte* to, int64_t rows, size_t pitch, const std::function<void(int64_t row, std::byte* out)>& fill);
  void bytes(std::byte* to, const void* from, size_t count);
  int64_t bytes_sent() const { return sent_; }
  void wait();     // until all is on the card
  void release();  // waits, and gives the pinned memory back; the next upload takes it again

 private:
  static constexpr int kStages = 3;
  struct Stage {
    std::byte* data = nullptr;
    cudaEvent_t taken = nullptr;  // by the card
  };
  Stage& next_stage(size_t bytes);

  std::array<Stage, kStages> stages_;
  size_t stage_bytes_ = 0;
  int next_ = 0;
  cudaStream_t stream_ = nullptr;
  int64_t sent_ = 0;
};

}  // namespace qg
