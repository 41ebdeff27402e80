// Every conversion against an independent definition: the nearest representable value, ties to the even code, found by
// search over all codes in double precision.
#include "core/float.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <vector>

namespace qg {
namespace {

// All finite non-negative values of a format, by code, computed from its definition.
std::vector<double> codes(int exponent_bits, int mantissa_bits, int bias, int count) {
  std::vector<double> values;
  for (int i = 0; i < count; ++i) {
    const int exponent = i >> mantissa_bits, mantissa = i & ((1 << mantissa_bits) - 1);
    values.push_back(exponent == 0 ? std::ldexp(mantissa, 1 - bias - mantissa_bits)
                                   : std::ldexp((1 << mantissa_bits) + mantissa, exponent - bias - mantissa_bits));
  }
  (void)exponent_bits;
  return values;
}

int nearest_even(const std::vector<double>& values, double x) {
  size_t low = 0;
  while (low + 1 < values.size() && values[low + 1] <= x) ++low;
  if (low + 1 == values.size()) return static_cast<int>(low);
  const double below = x - values[low], above = values[low + 1] - x;
  if (below < above) return static_cast<int>(low);
  if (above < below) return static_cast<int>(low + 1);
  return static_cast<int>(low % 2 == 0 ? low : low + 1);
}

TEST(E4m3, DecodesEveryCode) {
  const std::vector<double> values = codes(4, 3, 7, 127);
  for (int i = 0; i < 127; ++i) {
    EXPECT_EQ(f32_from_e4m3(static_cast<uint8_t>(i)), values[i]) << i;
    EXPECT_EQ(f32_from_e4m3(static_cast<uint8_t>(i | 0x80)), -values[i]) << i;
  }
  EXPECT_TRUE(std::isnan(f32_from_e4m3(0x7f)));
  EXPECT_TRUE(std::isnan(f32_from_e4m3(0xff)));
}

TEST(E4m3, RoundsToNearestEvenAtEveryBoundary) {
  const std::vector<double> values = codes(4, 3, 7, 127);
  for (int i = 0; i + 1 < 127; ++i) {
    const float middle = static_cast<float>((values[i] + values[i + 1]) / 2);  // exact: one more bit
    for (float x :
         {std::nextafter(middle, 0.0f), middle, std::nextafter(middle, 1e9f), static_cast<float>(values[i])}) {
      EXPECT_EQ(e4m3_from_f32(x), nearest_even(values, x)) << x;
      EXPECT_EQ(e4m3_from_f32(-x), nearest_even(values, x) | 0x80) << x;
    }
  }
}

TEST(E4m3, SaturatesAndKeepsNan) {
  for (float x : {448.0f, 449.0f, 464.0f, 465.0f, 1e30f, std::numeric_limits<float>::infinity()}) {
    EXPECT_EQ(e4m3_from_f32(x), 0x7e) << x;
    EXPECT_EQ(e4m3_from_f32(-x), 0xfe) << x;
  }
  EXPECT_EQ(e4m3_from_f32(std::numeric_limits<float>::quiet_NaN()) & 0x7f, 0x7f);
  EXPECT_EQ(e4m3_from_f32(-0.0f), 0x80);
}

TEST(E4m3, AgreesWithSearchOnEveryHalf) {
  const std::vector<double> values = codes(4, 3, 7, 127);
  for (int h = 0; h < 0x7c00; ++h) {
    const float x = f32_from_f16(static_cast<uint16_t>(h));
    ASSERT_EQ(e4m3_from_f32(x), x >= 448 ? 0x7e : nearest_even(values, x)) << x;
  }
}

TEST(F16, RoundTripsEveryCode) {
  for (int h = 0; h <= 0xffff; ++h) {
    const float x = f32_from_f16(static_cast<uint16_t>(h));
    if (std::isnan(x)) {
      EXPECT_GT(f16_from_f32(x) & 0x7fff, 0x7c00);
    } else {
      ASSERT_EQ(f16_from_f32(x), h);
    }
  }
}

TEST(F16, RoundsToNearestEvenAtEveryBoundary) {
  const std::vector<double> values = codes(5, 10, 15, 0x7c00);
  for (int i = 0; i + 1 < 0x7c00; ++i) {
    const float middle = static_cast<float>((values[i] + values[i + 1]) / 2);
    ASSERT_EQ(f16_from_f32(middle), i % 2 == 0 ? i : i + 1);
    ASSERT_EQ(f16_from_f32(std::nextafter(middle, 0.0f)), i);
    ASSERT_EQ(f16_from_f32(std::nextafter(middle, 1e9f)), i + 1);
  }
  EXPECT_EQ(f16_from_f32(65519.996f), 0x7bff);
  EXPECT_EQ(f16_from_f32(65520.0f), 0x7c00);
  EXPECT_EQ(f16_from_f32(-65536.0f), 0xfc00);
}

TEST(Bf16, RoundsToNearestEven) {
  EXPECT_EQ(bf16_from_f32(1.0f), 0x3f80);
  EXPECT_EQ(bf16_from_f32(std::bit_cast<float>(0x3f808000u)), 0x3f80);  // tie, even below
  EXPECT_EQ(bf16_from_f32(std::bit_cast<float>(0x3f818000u)), 0x3f82);  // tie, even above
  EXPECT_EQ(bf16_from_f32(std::bit_cast<float>(0x3f808001u)), 0x3f81);
  EXPECT_EQ(bf16_from_f32(std::numeric_limits<float>::infinity()), 0x7f80);
  EXPECT_GT(bf16_from_f32(std::numeric_limits<float>::quiet_NaN()) & 0x7fff, 0x7f80);
}

TEST(Bulk, EqualsOneByOne) {
  std::vector<float> x;
  for (int i = -3000; i < 3000; ++i) x.push_back(static_cast<float>(i) * 0.171f);
  std::vector<uint8_t> q(x.size());
  std::vector<uint16_t> h(x.size()), b(x.size());
  e4m3_from_f32(x.data(), q.data(), x.size(), 0.5f);
  f16_from_f32(x.data(), h.data(), x.size());
  bf16_from_f32(x.data(), b.data(), x.size());
  for (size_t i = 0; i < x.size(); ++i) {
    ASSERT_EQ(q[i], e4m3_from_f32(x[i] * 0.5f));
    ASSERT_EQ(h[i], f16_from_f32(x[i]));
    ASSERT_EQ(b[i], bf16_from_f32(x[i]));
  }
}

}  // namespace
}  // namespace qg
