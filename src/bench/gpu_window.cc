#include "bench/gpu_window.h"

#include <algorithm>
#include <utility>

namespace qg {
namespace {

template <class T>
void raise(std::optional<T>& most, const std::optional<T>& now) {
  if (now) most = std::max(most.value_or(*now), *now);
}

}  // namespace

GpuWindow::GpuWindow(std::function<GpuReading()> read, std::chrono::milliseconds interval) : read_(std::move(read)) {
  take();
  began_ = std::chrono::steady_clock::now();
  thread_ = std::thread([this, interval] {
    std::unique_lock lock(mutex_);
    while (!wake_.wait_for(lock, interval, [this] { return stopping_; })) take();
  });
}

GpuWindow::~GpuWindow() {
  stop();
}

void GpuWindow::take() {
  const GpuReading now = read_();
  ++use_.samples;
  if (!energy_before_) energy_before_ = now.energy_j;
  energy_last_ = now.energy_j;
  if (now.sm_mhz) {
    mhz_sum_ += *now.sm_mhz;
    ++mhz_count_;
  }
  if (now.power_w) {
    power_sum_ += *now.power_w;
    ++power_count_;
  }
  raise(use_.power_w_max, now.power_w);
  raise(use_.temperature_c_max, now.temperature_c);
  raise(use_.memory_bytes_max, now.memory_used_bytes);
}

GpuUse GpuWindow::stop() {
  if (!thread_.joinable()) return use_;
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_one();
  thread_.join();
  take();
  use_.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - began_).count();
  if (energy_before_ && energy_last_) use_.energy_j = *energy_last_ - *energy_before_;
  if (mhz_count_ > 0) use_.sm_mhz_mean = mhz_sum_ / mhz_count_;
  // Cards without an energy counter still tell their power now and then.
  if (use_.energy_j && use_.seconds > 0)
    use_.power_w_mean = *use_.energy_j / use_.seconds;
  else if (power_count_ > 0)
    use_.power_w_mean = power_sum_ / power_count_;
  return use_;
}

}  // namespace qg
