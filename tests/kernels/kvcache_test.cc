#include <gtest/gtest.h>

#include <cstring>

#include "kernels/kvcache/run.h"
#include "tests/kernels/naive.h"

namespace qg {
namespace {

TEST(KvCache, Fp8RoundsToTheNearestCodeAndSaturates) {
  std::vector<float> x = test::random_floats(500, 1, 3.0f);
  x.insert(x.end(), {0.0f, -0.0f, 1e-9f, 100.0f, -100.0f, 1e30f});
  const float scale = 0.037f;
  std::vector<std::byte> codes(x.size());
  std::vector<float> back = test::poisoned(static_cast<int64_t>(x.size()));
  kv_encode(KvFormat::fp8, scale, x.data(), codes.data(), static_cast<int64_t>(x.size()));
  kv_decode(KvFormat::fp8, scale, codes.data(), back.data(), static_cast<int64_t>(x.size()));
  for (size_t i = 0; i < x.size(); ++i) {
    const double value = test::round_e4m3(x[i] * (1.0f / scale));
    EXPECT_EQ(test::e4m3_value(std::to_integer<int>(codes[i])), value) << x[i];
    EXPECT_FLOAT_EQ(back[i], static_cast<float>(value * scale));
  }
}

TEST(KvCache, Int8RoundsHalfToEvenAndClampsAt127) {
  const std::vector<float> x{0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 126.5f, 127.5f, -127.5f, -1e9f, 1e9f, 0.49f, -3.2f};
  const std::vector<int> wanted{0, 2, 2, 0, -2, 126, 127, -127, -127, 127, 0, -3};
  std::vector<std::byte> codes(x.size());
  kv_encode(KvFormat::int8, 1.0f, x.data(), codes.data(), static_cast<int64_t>(x.size()));
  for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(static_cast<int8_t>(codes[i]), wanted[i]) << x[i];
  std::vector<float> back = test::poisoned(static_cast<int64_t>(x.size()));
  kv_decode(KvFormat::int8, 0.25f, codes.data(), back.data(), static_cast<int64_t>(x.size()));
  for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(back[i], 0.25f * static_cast<float>(wanted[i]));
}

// Two sequences that continue in the middle of pages; what is not theirs must stay as it was.
TEST(KvCache, AppendWritesItsTokensAndNothingElse) {
  for (const KvFormat format : {KvFormat::fp16, KvFormat::fp8, KvFormat::int8}) {
    const KvLayout layout{format, 3, 20, 4};
    const int64_t pages = 7, width = 3 * 20, stride = width + 5, rows = 9;
    std::vector<std::byte> pool(static_cast<size_t>(pages * layout.page_bytes()), std::byte{0xab});
    std::vector<std::byte> wanted = pool;
    const std::vector<float> k = test::random_floats(rows * stride, 2), v = test::random_floats(rows * stride, 3);
    const std::vector<int32_t> first{5, 0, 2}, second{6, 3};
    const std::vector<KvAppendPiece> pieces{{0, 6, 3, first}, {6, 3, 1, second}};
    const KvScale scale{0.05f, 0.02f};
    run_kv_append_reference(layout, {k.data(), v.data(), stride, scale, pieces, pool.data()});

    for (const KvAppendPiece& piece : pieces) {
      for (int64_t i = 0; i < piece.num_tokens; ++i) {
        const int64_t token = piece.context_tokens + i, page = piece.pages[static_cast<size_t>(token / 4)];
        for (int64_t head = 0; head < 3; ++head) {
          const int64_t from = (piece.first_row + i) * stride + head * 20;
          kv_encode(format, scale.k, k.data() + from, wanted.data() + layout.offset(page, 0, head, token % 4), 20);
          kv_encode(format, scale.v, v.data() + from, wanted.data() + layout.offset(page, 1, head, token % 4), 20);
        }
      }
    }
    EXPECT_EQ(pool, wanted) << to_string(format);
  }
}

TEST(KvCache, LayoutIsPageThenKOrVThenHeadThenToken) {
  const KvLayout layout{KvFormat::fp16, 2, 8, 4};
  EXPECT_EQ(layout.page_bytes(), 2 * 2 * 4 * 8 * 2);
  EXPECT_EQ(layout.offset(0, 0, 0, 1), 16);
  EXPECT_EQ(layout.offset(0, 0, 1, 0), 64);
  EXPECT_EQ(layout.offset(0, 1, 0, 0), 128);
  EXPECT_EQ(layout.offset(3, 0, 0, 0), 3 * 256);
}

}  // namespace
}  // namespace qg
