#include "bench/nvml.h"

#include <gtest/gtest.h>

namespace qg {
namespace {

// Without a driver, or of a card that is not there, everything is empty and nothing fails.
TEST(Nvml, MeterOfNoCardIsEmpty) {
  const GpuMeter meter("GPU-00000000-0000-0000-0000-000000000000");
  EXPECT_FALSE(meter.read().energy_j);
  EXPECT_FALSE(meter.read().memory_used_bytes);
  EXPECT_FALSE(meter.conditions().power_limit_w);
  EXPECT_FALSE(meter.conditions().other_processes);
  EXPECT_TRUE(meter.conditions().slowed_by.empty());
}

}  // namespace
}  // namespace qg
