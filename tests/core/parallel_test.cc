#include "core/parallel.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <fstream>

#include "tests/sanitized.h"

namespace qg {
namespace {

// Room for a few stacks of threads more, as little as a container's limit on processes leaves.
void leave_little_room() {
  int64_t pages = 0;
  std::ifstream("/proc/self/statm") >> pages;
  rlimit limit{};
  getrlimit(RLIMIT_AS, &limit);
  limit.rlim_cur = static_cast<rlim_t>(pages * sysconf(_SC_PAGESIZE) + (int64_t{40} << 20));
  setrlimit(RLIMIT_AS, &limit);
}

[[noreturn]] void sum_with_few_threads() {
  leave_little_room();
  set_num_threads(64);
  std::atomic<int64_t> sum = 0;
  parallel_for(1000, 1, [&](int64_t begin, int64_t) { sum += begin; });
  std::_Exit(sum == 499500 ? 0 : 1);
}

TEST(Parallel, TheThreadsThatCanBeHadDoTheWork) {
  if (kSlowdown > 1) return;  // a sanitizer needs the address space
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(sum_with_few_threads(), testing::ExitedWithCode(0), "");
}

}  // namespace
}  // namespace qg
