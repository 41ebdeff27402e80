// From one 16-bit type to the other.
#include <gtest/gtest.h>

#include <cmath>

#include "kernels/pointwise/cuda.h"
#include "tests/gpu/device_vector.h"

namespace qg::testing {
namespace {

// Every 16-bit pattern, to the other type and back, as the host rounds; what lies behind is left alone.
TEST(ConvertInPlace, RoundsAsTheHostDoes) {
  std::vector<uint16_t> all(1 << 16);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  const std::vector<float> halves = from_half(all), bfloats = from_bfloat(all);
  for (const bool chained : {false, true})
    for (const DType to : {DType::f16, DType::bf16}) {
      const std::vector<uint16_t> want = to == DType::f16 ? to_half(bfloats) : to_bfloat(halves);
      DeviceVector<uint16_t> device(all);
      const size_t count = all.size() - 24;
      CudaQueue queue;
      queue.chained = chained;
      convert_in_place(queue, static_cast<int64_t>(count), device.data(), to);
      const std::vector<uint16_t> got = device.read();
      for (size_t i = 0; i < all.size(); ++i) {
        if (i >= count)
          ASSERT_EQ(got[i], all[i]) << "wrote behind the end at " << i;
        else if (std::isnan(to == DType::f16 ? bfloats[i] : halves[i]))
          ASSERT_TRUE(std::isnan(to == DType::f16 ? f32_from_f16(got[i]) : f32_from_bf16(got[i]))) << i;
        else
          ASSERT_EQ(got[i], want[i]) << "pattern " << i << " to " << to_string(to);
      }
    }
}

}  // namespace
}  // namespace qg::testing
