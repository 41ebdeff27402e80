#pragma once
// What a GPU did while something was measured: read all the time, not at the ends alone.
#include <chrono>
#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>

#include "bench/nvml.h"

namespace qg {

// Empty where the driver does not say.
struct GpuUse {
  double seconds = 0;
  int samples = 0;
  std::optional<double> energy_j;                   // by the driver's counter
  std::optional<double> power_w_mean, power_w_max;  // mean: energy over time
  std::optional<double> sm_mhz_mean, temperature_c_max;
  std::optional<int64_t> memory_bytes_max;
};

// From construction to stop(), a thread of its own reads every `interval`.
class GpuWindow {
 public:
  // read: GpuMeter::read of a meter that outlives the window; called from both threads, never at once.
  GpuWindow(std::function<GpuReading()> read, std::chrono::milliseconds interval = std::chrono::milliseconds(100));
  ~GpuWindow();
  GpuWindow(const GpuWindow&) = delete;
  GpuWindow& operator=(const GpuWindow&) = delete;
  GpuUse stop();

 private:
  void take();

  std::function<GpuReading()> read_;
  std::chrono::steady_clock::time_point began_ = std::chrono::steady_clock::now();
  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  GpuUse use_;
  std::optional<double> energy_before_, energy_last_;
  double mhz_sum_ = 0, power_sum_ = 0;
  int mhz_count_ = 0, power_count_ = 0;
  std::thread thread_;  // last: it uses the others
};

}  // namespace qg
