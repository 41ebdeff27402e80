#include "bench/gpu_window.h"

#include <gtest/gtest.h>

#include <atomic>

namespace qg {
namespace {

TEST(GpuWindow, SeesWhatHappensBetweenItsEnds) {
  std::atomic<int> calls = 0;
  GpuWindow window(
      [&] {
        const int n = calls++;
        GpuReading r;
        r.energy_j = 100.0 + n;
        r.memory_used_bytes = n == 2 ? 900 : 500;  // a peak that both ends miss
        r.temperature_c = n == 1 ? 71.0 : 60.0;
        r.sm_mhz = 1000.0;
        r.power_w = n == 3 ? 650.0 : 300.0;
        return r;
      },
      std::chrono::milliseconds(5));
  while (calls < 6) std::this_thread::sleep_for(std::chrono::milliseconds(1));
  const GpuUse use = window.stop();
  EXPECT_EQ(use.memory_bytes_max, 900);
  EXPECT_EQ(use.temperature_c_max, 71.0);
  EXPECT_EQ(use.power_w_max, 650.0);
  EXPECT_EQ(use.sm_mhz_mean, 1000.0);
  ASSERT_TRUE(use.energy_j);
  EXPECT_EQ(*use.energy_j, calls - 1);
  EXPECT_NEAR(*use.power_w_mean, *use.energy_j / use.seconds, 1e-9);
  EXPECT_EQ(use.samples, calls);
  EXPECT_EQ(window.stop().samples, use.samples);  // a second stop changes nothing
}

TEST(GpuWindow, PowerReadingsServeWhereThereIsNoCounter) {
  int n = 0;
  GpuWindow window(
      [&] {
        GpuReading r;
        r.power_w = n++ == 0 ? 100.0 : 200.0;
        return r;
      },
      std::chrono::hours(1));
  const GpuUse use = window.stop();
  EXPECT_FALSE(use.energy_j);
  EXPECT_EQ(use.power_w_mean, 150.0);
}

TEST(GpuWindow, OfNoCardIsEmpty) {
  GpuWindow window([] { return GpuReading(); });
  const GpuUse use = window.stop();
  EXPECT_FALSE(use.energy_j);
  EXPECT_FALSE(use.power_w_mean);
  EXPECT_FALSE(use.memory_bytes_max);
  EXPECT_GE(use.samples, 2);
}

}  // namespace
}  // namespace qg
