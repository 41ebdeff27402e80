#include "kernels/common/cuda_time.h"

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <utility>
#include <vector>

namespace qg {
namespace {

// What follows on the stream waits until the gate opens. Where a launch itself waits for the device (sanitizers,
// CUDA_LAUNCH_BLOCKING) nobody would open it: after kLongest it opens by itself, and the host's time counts again.
class Gate {
 public:
  explicit Gate(cudaStream_t stream) : stream_(stream) { QG_CUDA(cudaLaunchHostFunc(stream, wait, this)); }
  ~Gate() {
    open();
    cudaStreamSynchronize(stream_);  // wait() reads this object
  }
  Gate(const Gate&) = delete;
  Gate& operator=(const Gate&) = delete;
  void open() {
    const std::lock_guard lock(mutex_);
    open_ = true;
    opened_.notify_all();
  }

 private:
  static constexpr std::chrono::milliseconds kLongest{20};
  static void CUDART_CB wait(void* self) {
    auto& gate = *static_cast<Gate*>(self);
    std::unique_lock lock(gate.mutex_);
    gate.opened_.wait_for(lock, kLongest, [&] { return gate.open_; });
  }

  cudaStream_t stream_;
  std::mutex mutex_;
  std::condition_variable opened_;
  bool open_ = false;
};

class Event {
 public:
  Event() { QG_CUDA(cudaEventCreate(&event_)); }
  ~Event() {
    if (event_) cudaEventDestroy(event_);
  }
  Event(Event&& other) noexcept : event_(std::exchange(other.event_, nullptr)) {}
  Event& operator=(Event&&) = delete;
  void record(cudaStream_t stream) const { QG_CUDA(cudaEventRecord(event_, stream)); }
  double us_since(const Event& before) const {
    float ms = 0;
    QG_CUDA(cudaEventElapsedTime(&ms, before.event_, event_));
    return 1000.0 * static_cast<double>(ms);
  }

 private:
  cudaEvent_t event_ = nullptr;
};

}  // namespace

double median_us(cudaStream_t stream, void* flush, size_t flush_bytes, int runs, const std::function<void()>& work) {
  work();
  const auto count = static_cast<size_t>(runs);
  const std::vector<Event> begin(count), end(count);
  {
    Gate gate(stream);
    for (size_t run = 0; run < count; ++run) {
      if (flush_bytes > 0) QG_CUDA(cudaMemsetAsync(flush, static_cast<int>(run), flush_bytes, stream));
      begin[run].record(stream);
      work();
      end[run].record(stream);
    }
    gate.open();
    QG_CUDA(cudaStreamSynchronize(stream));
  }
  std::vector<double> times;
  for (size_t run = 0; run < count; ++run) times.push_back(end[run].us_since(begin[run]));
  std::nth_element(times.begin(), times.begin() + runs / 2, times.end());
  return times[count / 2];
}

}  // namespace qg
