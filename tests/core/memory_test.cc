#include "core/memory.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>

#include <cstring>

#include "tests/sanitized.h"

namespace qg {
namespace {

// What was freed before the reset does not count after it.
TEST(Memory, ThePeakBeginsAnew) {
  constexpr int64_t kBytes = int64_t{200} << 20;
  const int64_t before = peak_rss_bytes();
  void* block = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ASSERT_NE(block, MAP_FAILED);
  std::memset(block, 1, kBytes);
  munmap(block, kBytes);
  const int64_t with_block = peak_rss_bytes();
  EXPECT_GT(with_block, before + kBytes / 2);
  if (reset_peak_rss())
    EXPECT_LT(peak_rss_bytes(), with_block - kBytes / 2);
  else
    EXPECT_GE(peak_rss_bytes(), with_block);
}

TEST(Memory, SaysWhenThePeakCannotBeginAnew) {
  if (kSlowdown > 1) return;  // a sanitizer's own checks open files
  struct rlimit limit {};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  struct rlimit none = limit;
  none.rlim_cur = 0;  // the kernel's file cannot be opened
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const bool reset = reset_peak_rss();
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_FALSE(reset);
}

}  // namespace
}  // namespace qg
