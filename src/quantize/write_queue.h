#pragma once
// Work that runs in order on one thread beside the caller: writing what is finished while the next is computed.
#include <condition_variable>
#include <deque>
#include <exception>
#include <functional>
#include <mutex>
#include <thread>

namespace qg {

class WriteQueue {
 public:
  // most: jobs that may wait; then push waits, so that finished work does not fill the memory.
  explicit WriteQueue(size_t most);
  ~WriteQueue();  // drops what has not begun
  WriteQueue(const WriteQueue&) = delete;
  WriteQueue& operator=(const WriteQueue&) = delete;

  // Both throw again what an earlier job threw; after that no job is run.
  void push(std::function<void()> job);
  void drain();                                      // waits until all is done
  double busy_seconds() const;                       // of the thread
  double waited_seconds() const { return waited_; }  // of callers in push and drain

 private:
  void loop();
  void wait(std::unique_lock<std::mutex>& lock, size_t most);

  size_t most_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> jobs_;
  std::exception_ptr error_;
  bool stop_ = false, busy_ = false;
  double busy_seconds_ = 0, waited_ = 0;
  std::thread thread_;
};

}  // namespace qg
