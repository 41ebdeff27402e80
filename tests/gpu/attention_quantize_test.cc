// The pass that brings attention's f16 rows into codes with a scale per row, against the CPU's rounding: same
// operations on the same values, so the results are equal to the bit.
#include <gtest/gtest.h>

#include "kernels/attention/cuda_kernels.h"
#include "kernels/pointwise/run.h"
#include "tests/gpu/device_vector.h"

namespace qg::testing {
namespace {

// Rows that stay in registers, and longer ones of which a part is read twice.
TEST(AttentionQuantize, RowsOfEveryWidthEqualTheReference) {
  for (const int64_t width : {64, 1024, 3072, 4096, 4160, 9216})
    for (const ActivationForm form : {ActivationForm::fp8, ActivationForm::int8}) {
      constexpr int64_t kFirst = 2, kRows = 3;
      const size_t count = static_cast<size_t>((kFirst + kRows) * width);
      std::vector<uint16_t> rows = to_half(normal_values(count, static_cast<uint64_t>(width), 3));
      rows[count - 1] = rows[static_cast<size_t>((kFirst + 1) * width) - 1] = 0x5640;  // 100, at the end of two rows
      const DeviceVector<uint16_t> device_rows(rows);
      const DeviceVector<uint8_t> codes(count);
      const DeviceVector<float> scales(static_cast<size_t>(kFirst + kRows));
      attention::Output out;
      out.form = form;
      out.values = codes.data();
      out.width = static_cast<int>(width);
      attention::launch_quantize({}, kFirst, kRows, reinterpret_cast<const __half*>(device_rows.data()), out,
                                 scales.data());
      const std::vector<float> exact = from_half(rows);
      std::vector<float> want(count), want_scales(static_cast<size_t>(kFirst + kRows));
      const auto quantize = form == ActivationForm::fp8 ? quantize_activation_fp8 : quantize_activation_int8;
      quantize(exact.data(), nullptr, 0, want.data(), width, want_scales.data(), kFirst + kRows, width);
      const std::vector<uint8_t> got = codes.read();
      const std::vector<float> got_scales = scales.read();
      for (size_t i = static_cast<size_t>(kFirst * width); i < count; ++i) {
        const float code = form == ActivationForm::fp8 ? f32_from_e4m3(got[i]) : static_cast<int8_t>(got[i]);
        ASSERT_EQ(code, want[i]) << "width " << width << ", element " << i;
      }
      for (int64_t row = kFirst; row < kFirst + kRows; ++row)
        EXPECT_EQ(got_scales[static_cast<size_t>(row)], want_scales[static_cast<size_t>(row)]);
      for (size_t i = 0; i < static_cast<size_t>(kFirst * width); ++i) ASSERT_EQ(got[i], kPoison) << "was touched";
    }
}

}  // namespace
}  // namespace qg::testing
