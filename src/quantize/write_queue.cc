#include "quantize/write_queue.h"

#include <chrono>

namespace qg {
namespace {

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // namespace

WriteQueue::WriteQueue(size_t most) : most_(most), thread_([this] { loop(); }) {}

WriteQueue::~WriteQueue() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
    jobs_.clear();
  }
  changed_.notify_all();
  thread_.join();
}

void WriteQueue::wait(std::unique_lock<std::mutex>& lock, size_t most) {
  const auto start = std::chrono::steady_clock::now();
  changed_.wait(lock, [&] { return error_ || jobs_.size() + (busy_ ? 1 : 0) <= most; });
  waited_ += seconds_since(start);
  if (error_) std::rethrow_exception(error_);
}

void WriteQueue::push(std::function<void()> job) {
  std::unique_lock lock(mutex_);
  wait(lock, most_ - 1);
  jobs_.push_back(std::move(job));
  lock.unlock();
  changed_.notify_all();
}

void WriteQueue::drain() {
  std::unique_lock lock(mutex_);
  wait(lock, 0);
}

double WriteQueue::busy_seconds() const {
  const std::lock_guard lock(mutex_);
  return busy_seconds_;
}

void WriteQueue::loop() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return stop_ || !jobs_.empty(); });
    if (stop_) return;
    std::function<void()> job = std::move(jobs_.front());
    jobs_.pop_front();
    busy_ = true;
    lock.unlock();
    const auto start = std::chrono::steady_clock::now();
    std::exception_ptr error;
    try {
      job();
    } catch (...) {
      error = std::current_exception();
    }
    job = nullptr;  // what it held may be large
    lock.lock();
    busy_seconds_ += seconds_since(start);
    busy_ = false;
    if (error) {
      error_ = error;
      jobs_.clear();
    }
    changed_.notify_all();
  }
}

}  // namespace qg
