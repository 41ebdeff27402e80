#include "kernels/common/cuda_time.h"

#include <gtest/gtest.h>

#include <chrono>
#include <stdexcept>
#include <thread>

namespace qg {
namespace {

constexpr size_t kSmall = size_t{1} << 20, kLarge = size_t{256} << 20;

void fill(const DeviceBuffer& buffer, size_t bytes) {
  QG_CUDA(cudaMemsetAsync(buffer.data(), 1, bytes, nullptr));
}

TEST(MedianUs, LeavesTheHostsTimeOut) {
  const DeviceBuffer buffer(kSmall);
  const double us = median_us(nullptr, nullptr, 0, 5, [&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    fill(buffer, kSmall);  // some microseconds
  });
  EXPECT_GT(us, 0);
  EXPECT_LT(us, 500);
}

TEST(MedianUs, GrowsWithTheWorkAndNotWithTheFlush) {
  const DeviceBuffer buffer(kLarge), flush(kLarge);
  const auto time = [&](size_t flush_bytes, int fills) {
    return median_us(nullptr, flush.data(), flush_bytes, 5, [&] {
      for (int i = 0; i < fills; ++i) fill(buffer, kLarge);
    });
  };
  const double one = time(0, 1);
  EXPECT_GT(one, 1e-12 * 1e6 * static_cast<double>(kLarge) / 10) << "more than 10 TB/s";
  EXPECT_NEAR(time(0, 3) / one, 3, 0.6);
  EXPECT_NEAR(time(kLarge, 1) / one, 1, 0.2);
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
