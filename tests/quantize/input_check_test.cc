// What a quantizer refuses before it computes anything.
#include "quantize/input_check.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "core/error.h"
#include "core/float.h"

namespace qg::testing {
namespace {

std::vector<std::byte> stored(DType dtype, const std::vector<float>& values) {
  std::vector<std::byte> bytes(values.size() * size_bytes(dtype));
  any_from_f32(dtype, values.data(), bytes.data(), values.size());
  return bytes;
}

TEST(AllFinite, SeesOneBadValueAnywhere) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const DType dtype : {DType::f16, DType::bf16, DType::f32}) {
    // What lies next to infinity, zeros of both signs, subnormals.
    const float largest = dtype == DType::f16 ? 65504.0f : 3e38f;
    const std::vector<float> sound{0.0f, -0.0f, 1.0f, -2.5f, largest, -largest, 6e-8f, 1e-40f};
    std::vector<float> values;
    for (int i = 0; i < 9; ++i) values.insert(values.end(), sound.begin(), sound.end());
    const auto finite = [&] {
      return all_finite(dtype, stored(dtype, values).data(), static_cast<int64_t>(values.size()));
    };
    EXPECT_TRUE(finite()) << to_string(dtype);
    for (const size_t at : {size_t{0}, size_t{17}, values.size() - 1})
      for (const float bad : {kInfinity, -kInfinity, NAN, -NAN}) {
        const float kept = values[at];
        values[at] = bad;
        EXPECT_FALSE(finite()) << to_string(dtype) << ", " << bad << " at " << at;
        values[at] = kept;
      }
  }
}

TEST(FiniteSums, NamesTheInputAndWhatElseHelps) {
  const std::vector<double> sound{0, 3, 1e300};
  check_finite_sums(sound, "input of layers.3.mlp_act", "");
  const std::vector<double> broken{0, NAN, 1};
  try {
    check_finite_sums(broken, "input of layers.3.mlp_act", "; or this");
    FAIL();
  } catch (const Error& e) {
    const std::string text = e.what();
    for (const char* part : {"infinite or not a number", "input of layers.3.mlp_act", "; or this"})
      EXPECT_NE(text.find(part), std::string::npos) << text;
  }
}

}  // namespace
}  // namespace qg::testing
