#include "kernels/common/cuda_time.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <functional>
#include <stdexcept>
#include <thread>

namespace qg {
namespace {

constexpr size_t kSmall = size_t{1} << 20, kLarge = size_t{256} << 20;

void fill(const DeviceBuffer& buffer, size_t bytes) {
  QG_CUDA(cudaMemsetAsync(buffer.data(), 1, bytes, nullptr));
}

// Other processes' turns on the same GPU lengthen most measurements, not all.
double least_us(void* flush, size_t flush_bytes, const std::function<void()>& work) {
  double least = 1e300;
  for (int i = 0; i < 10; ++i) least = std::min(least, median_us(nullptr, flush, flush_bytes, 5, work));
  return least;
}

TEST(MedianUs, LeavesTheHostsTimeOut) {
  const DeviceBuffer buffer(kSmall);
  const double us = least_us(nullptr, 0, [&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    fill(buffer, kSmall);  // some microseconds
  });
  EXPECT_GT(us, 0);
  EXPECT_LT(us, 500);
}

TEST(MedianUs, GrowsWithTheWorkAndNotWithTheFlush) {
  const DeviceBuffer buffer(kLarge), flush(kLarge);
  const auto time = [&](size_t flush_bytes, int fills) {
    return least_us(flush.data(), flush_bytes, [&] {
      for (int i = 0; i < fills; ++i) fill(buffer, kLarge);
    });
  };
  const double one = time(0, 1);
  EXPECT_GT(one, static_cast<double>(kLarge) / 10e6) << "more than 10 TB/s";
  EXPECT_GT(time(0, 3), 2 * one);
  EXPECT_LT(time(kLarge, 1), 1.7 * one);
}

TEST(MedianUs, WorkThatThrowsLeavesTheStreamUsable) {
  const DeviceBuffer buffer(kSmall);
  int calls = 0;
  const auto throws_late = [&] {
    fill(buffer, kSmall);
    if (++calls == 3) throw std::runtime_error("no more");
  };
  EXPECT_THROW(median_us(nullptr, nullptr, 0, 5, throws_late), std::runtime_error);
  EXPECT_GT(median_us(nullptr, nullptr, 0, 5, [&] { fill(buffer, kSmall); }), 0);
}

}  // namespace
}  // namespace qg
