#pragma once
// For how long a GPU worked on steps, measured by events on the stream.
#include <array>
#include <cstdint>

#include "kernels/common/cuda.h"

namespace qg {

struct CudaEvent {
  explicit CudaEvent(unsigned flags = cudaEventDefault) { QG_CUDA(cudaEventCreateWithFlags(&event, flags)); }
  ~CudaEvent() { cudaEventDestroy(event); }
  CudaEvent(const CudaEvent&) = delete;
  CudaEvent& operator=(const CudaEvent&) = delete;
  cudaEvent_t event = nullptr;
};

struct CudaStream {
  CudaStream() { QG_CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking)); }
  ~CudaStream() { cudaStreamDestroy(stream); }
  CudaStream(const CudaStream&) = delete;
  CudaStream& operator=(const CudaStream&) = delete;
  cudaStream_t stream = nullptr;
};

// A step that follows another on the stream without a pause counts from the end of that one: one event a step, since
// each costs the device about a microsecond between the steps. When the device has run out of work before the step is
// sent off, the time until then does not count.
class BusyClock {
 public:
  // Around a step's launches. When start() is called, at most one step that was stopped may be under way.
  void start(cudaStream_t stream);
  int64_t stop(cudaStream_t stream);  // returns the step's number
  void wait(int64_t step) const;      // until it has ended; one of the last two
  double seconds();                   // of all steps; waits for them

 private:
  // A step's time is read when the one after the next is started. It needs the event before its own.
  static constexpr size_t kSteps = 4;
  struct Step {
    CudaEvent begin, end;
    bool after_pause = true;
  };
  Step& at(int64_t step) { return steps_[static_cast<size_t>(step) % kSteps]; }
  void read_until(int64_t step);

  std::array<Step, kSteps> steps_;
  int64_t stopped_ = 0, read_ = 0;
  double seconds_ = 0;
};

}  // namespace qg
