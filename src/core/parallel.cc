#include "core/parallel.h"

#include <sched.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <vector>

namespace qg {
namespace {

int allowed_processors() {
  cpu_set_t set;
  if (sched_getaffinity(0, sizeof(set), &set) == 0) return std::max(1, CPU_COUNT(&set));
  return std::max(1u, std::thread::hardware_concurrency());
}

thread_local bool inside = false;

struct Job {
  int64_t count, grain;
  const std::function<void(int64_t, int64_t)>* fn;
  std::atomic<int64_t> next{0};
  std::exception_ptr error{};
  std::mutex error_mutex{};

  void work() {
    inside = true;
    for (;;) {
      const int64_t begin = next.fetch_add(grain);
      if (begin >= count) break;
      try {
        (*fn)(begin, std::min(count, begin + grain));
      } catch (...) {
        const std::lock_guard lock(error_mutex);
        if (!error) error = std::current_exception();
        next = count;
      }
    }
    inside = false;
  }
};

class Pool {
 public:
  explicit Pool(int helpers) {
    try {
      for (int i = 0; i < helpers; ++i) threads_.emplace_back([this] { loop(); });
    } catch (const std::system_error&) {  // a limit on threads: those that there are do the work
    }
  }
  ~Pool() {
    {
      const std::lock_guard lock(mutex_);
      stop_ = true;
    }
    wake_.notify_all();
    for (std::thread& t : threads_) t.join();
  }

  void run(Job& job) {
    {
      const std::lock_guard lock(mutex_);
      job_ = &job;
      ++generation_;
      busy_ = static_cast<int>(threads_.size());
    }
    wake_.notify_all();
    job.work();
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
    job_ = nullptr;
  }

 private:
  void loop() {
    int64_t seen = 0;
    std::unique_lock lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return stop_ || generation_ != seen; });
      if (stop_) return;
      seen = generation_;
      Job* job = job_;
      lock.unlock();
      job->work();
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_, done_;
  std::vector<std::thread> threads_;
  Job* job_ = nullptr;
  int64_t generation_ = 0;
  int busy_ = 0;
  bool stop_ = false;
};

std::mutex pool_mutex;  // one job at a time; also guards the two below
int wanted_threads = 0;
std::unique_ptr<Pool> pool;

}  // namespace

int num_threads() {
  const std::lock_guard lock(pool_mutex);
  if (wanted_threads == 0) wanted_threads = allowed_processors();
  return wanted_threads;
}

void set_num_threads(int n) {
  const std::lock_guard lock(pool_mutex);
  wanted_threads = std::max(1, n);
  pool.reset();
}

void parallel_for(int64_t count, int64_t grain, const std::function<void(int64_t, int64_t)>& fn) {
  grain = std::max<int64_t>(1, grain);
  if (count <= 0) return;
  if (inside || count <= grain || num_threads() == 1) {
    for (int64_t begin = 0; begin < count; begin += grain) fn(begin, std::min(count, begin + grain));
    return;
  }
  const std::lock_guard lock(pool_mutex);
  if (!pool) pool = std::make_unique<Pool>(wanted_threads - 1);
  Job job{count, grain, &fn};
  pool->run(job);
  if (job.error) std::rethrow_exception(job.error);
}

}  // namespace qg
