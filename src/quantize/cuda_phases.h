#pragma once
// Where a GPU's time goes: seconds between pairs of points on a stream, summed by name.
#include <array>
#include <vector>

#include "kernels/common/cuda.h"

namespace qg {

enum class CudaPhase { forward, statistics, kv };
inline constexpr int kCudaPhases = 3;

class CudaPhases {
 public:
  explicit CudaPhases(cudaStream_t stream) : stream_(stream) {}
  ~CudaPhases() {
    for (const Interval& each : intervals_) {
      cudaEventDestroy(each.begin);
      cudaEventDestroy(each.end);
    }
  }
  CudaPhases(const CudaPhases&) = delete;
  CudaPhases& operator=(const CudaPhases&) = delete;

  // What is launched from here on counts as this phase, until the next call or close().
  void open(CudaPhase phase) {
    close();
    if (used_ == intervals_.size()) {
      Interval made;
      QG_CUDA(cudaEventCreate(&made.begin));
      QG_CUDA(cudaEventCreate(&made.end));
      intervals_.push_back(made);
    }
    intervals_[used_].phase = phase;
    QG_CUDA(cudaEventRecord(intervals_[used_].begin, stream_));
    open_ = true;
  }
  void close() {
    if (open_) QG_CUDA(cudaEventRecord(intervals_[used_++].end, stream_));
    open_ = false;
  }
  // After the stream has ended its work: adds up what was measured.
  void collect() {
    close();
    QG_CUDA(cudaStreamSynchronize(stream_));
    for (size_t i = 0; i < used_; ++i) {
      float ms = 0;
      QG_CUDA(cudaEventElapsedTime(&ms, intervals_[i].begin, intervals_[i].end));
      seconds_[static_cast<size_t>(intervals_[i].phase)] += 1e-3 * static_cast<double>(ms);
    }
    used_ = 0;
  }
  double seconds(CudaPhase phase) const { return seconds_[static_cast<size_t>(phase)]; }

 private:
  struct Interval {
    cudaEvent_t begin = nullptr, end = nullptr;
    CudaPhase phase = CudaPhase::forward;
  };
  cudaStream_t stream_;
  std::vector<Interval> intervals_;
  size_t used_ = 0;
  bool open_ = false;
  std::array<double, kCudaPhases> seconds_{};
};

}  // namespace qg
