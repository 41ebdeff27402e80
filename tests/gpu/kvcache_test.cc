// RoPE and storing in the paged cache on the GPU: the stored bytes equal what rope() and run_kv_append_reference()
// store, bit by bit (the kernel does the same operations in the same order), and nothing else is touched.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdio>
#include <string>

#include "kernels/attention/desc.h"
#include "kernels/kvcache/cuda.h"
#include "kernels/kvcache/cuda_kernels.h"
#include "kernels/kvcache/shaping.h"
#include "kernels/pointwise/run.h"
#include "tests/gpu/paged_batch.h"
#include "tests/gpu/shaped_cache.h"

namespace qg::testing {
namespace {

struct Case {
  KvFormat format;
  int64_t heads, kv_heads, head_dim, page_tokens;
  bool padded;  // some rows are padding of a batch
  bool shaped = false;
  int64_t rows = 0;  // 0: many pieces of many lengths
  // Sums of large numbers that cancel: what is left of them depends on the order and on every rounding.
  bool cancelling = false;
  int64_t shared_bytes = 0;  // as rope_and_append takes them

  // So small that some codes saturate.
  KvScale scale() const {
    if (format == KvFormat::fp16) return {};
    const bool fp8 = format == KvFormat::fp8;
    return {cancelling ? fp8 ? 0.1f : 0.3f : fp8 ? 0.007f : 0.021f, fp8 ? 0.005f : 0.027f};
  }
};

// Up to 40 pieces that decode and one with the other rows.
std::vector<StepPiece> pieces_of(int64_t rows) {
  if (rows == 0) return {{1, 1}, {1, 16}, {1, 17}, {1, 64}, {1, 4097}, {5, 5}, {64, 64}, {100, 163}, {129, 1129}};
  std::vector<StepPiece> pieces;
  for (; rows > 0 && pieces.size() < 40; --rows) pieces.push_back({1, 1 + 37 * rows % 900});
  if (rows > 0) pieces.push_back({rows, rows + 90});
  return pieces;
}

constexpr uint16_t kPoisonedQ = 0x7fff;  // NaN

// What the CPU stores and what q becomes.
struct Expected {
  std::vector<std::byte> pool;
  std::vector<float> q;
};

Expected expect(const Case& c, const PagedBatch& batch, const std::vector<float>& qkv, int64_t stride, KvScale scale,
                const KvShaping* shaping) {
  const int64_t rows = batch.rows(), d = c.head_dim;
  std::vector<int64_t> positions(batch.row_position().begin(), batch.row_position().end());
  const RopeTable table = make_rope_table(frequencies(d), positions);
  std::vector<float> x = qkv;
  rope(table, x.data(), stride, rows, c.heads + c.kv_heads, d);
  Expected e{batch.pool(), {}};
  const std::vector<KvAppendPiece> pieces = batch.append_pieces();
  KvAppendParams params;
  params.k = x.data() + c.heads * d;
  params.v = x.data() + (c.heads + c.kv_heads) * d;
  params.stride = stride;
  params.scale = scale;
  params.pieces = pieces;
  params.pool = e.pool.data();
  params.shaping = shaping;
  run_kv_append_reference(batch.layout(), params);
  for (int64_t row = 0; row < rows; ++row)
    e.q.insert(e.q.end(), x.begin() + row * stride, x.begin() + row * stride + c.heads * d);
  if (shaping != nullptr) {
    e.q = from_half(to_half(e.q));  // what the GPU multiplies
    shape_queries(*shaping, c.heads, c.kv_heads, d, e.q.data(), c.heads * d, rows);
  }
  return e;
}

void expect_same_pool(const Case& c, const PagedBatch& batch, const std::vector<std::byte>& got,
                      const std::vector<std::byte>& want) {
  ASSERT_EQ(got.size(), want.size());
  int reported = 0;
  for (size_t i = 0; i < got.size() && reported < 5; ++i) {
    if (got[i] == want[i]) continue;
    const size_t page_bytes = static_cast<size_t>(batch.layout().page_bytes());
    ADD_FAILURE() << to_string(c.format) << (c.shaped ? " shaped" : "") << (c.cancelling ? " cancelling" : "")
                  << " heads " << c.heads << "/" << c.kv_heads << " head_dim " << c.head_dim << " rows " << batch.rows()
                  << (c.padded ? "+7" : "") << " page " << c.page_tokens << ": byte " << i % page_bytes << " of page "
                  << i / page_bytes << " is " << static_cast<int>(got[i]) << ", want " << static_cast<int>(want[i])
                  << ", was " << static_cast<int>(batch.pool()[i]);
    ++reported;
  }
}

void run_case(const Case& c) {
  const KvLayout layout{c.format, c.kv_heads, c.head_dim, c.page_tokens};
  PagedBatch batch(layout, pieces_of(c.rows));
  const int64_t d = c.head_dim, stride = (c.heads + 2 * c.kv_heads) * d + 8;
  const KvScale scale = c.scale();
  const std::vector<uint16_t> qkv = to_half(normal_values(static_cast<size_t>(batch.rows() * stride), 11, 1.5f));
  const KvShaping shaping = random_shaping(c.kv_heads, c.head_dim, c.cancelling);
  const Expected want = expect(c, batch, from_half(qkv), stride, scale, c.shaped ? &shaping : nullptr);
  const DeviceShaping device_shaping(shaping);
  const CudaKvShaping shaping_view = device_shaping.view();

  const DeviceBatch device(batch);
  const DeviceVector<uint16_t> device_qkv(qkv);
  const DeviceVector<float2> table(device_table(d));
  const DeviceVector<uint16_t> q(
      std::vector<uint16_t>(static_cast<size_t>((batch.rows() + 7) * c.heads * d), kPoisonedQ));
  CudaBatch view = device.view();
  std::vector<int32_t> position = batch.row_position();
  position.insert(position.end(), 7, -1);
  std::vector<int32_t> piece = batch.row_piece();
  piece.insert(piece.end(), 7, 1 << 28);
  const DeviceVector<int32_t> padded_position(position), padded_piece(piece);
  view.row_position = padded_position.data();
  view.row_piece = padded_piece.data();
  rope_and_append({}, layout, view, batch.rows() + (c.padded ? 7 : 0),
                  {reinterpret_cast<const __half*>(device_qkv.data()), stride, c.heads}, table.data(), scale,
                  reinterpret_cast<__half*>(q.data()), device.pool(), c.shaped ? &shaping_view : nullptr,
                  c.shared_bytes);
  expect_same_pool(c, batch, device.read_pool(), want.pool);
  const std::vector<uint16_t> want_q = to_half(want.q), got_q = q.read();
  const size_t q_row = static_cast<size_t>(c.heads * d);
  int reported = 0;
  for (size_t i = want_q.size(); i < got_q.size(); ++i)
    ASSERT_EQ(got_q[i], kPoisonedQ) << "q of a padding row was written, row " << i / q_row;
  for (size_t i = 0; i < want_q.size() && reported < 5; ++i) {
    // The shaped q is a sum of head_dim products of magnitude 0.1 in float, then rounded to f16.
    const float got = f32_from_f16(got_q[i]), tolerance = std::fabs(want.q[i]) / 2048 + 1e-5f;
    if (c.shaped ? std::fabs(got - want.q[i]) <= tolerance : got_q[i] == want_q[i]) continue;
    ADD_FAILURE() << "rows " << batch.rows() << " head_dim " << d << ": q of row " << i / q_row << ", element "
                  << i % q_row << ": got " << got << ", want " << want.q[i];
    ++reported;
  }
  EXPECT_EQ(device_qkv.read(), qkv) << "the input was changed";
}

TEST(KvAppend, StoresWhatTheReferenceStores) {
  for (const KvFormat format : {KvFormat::fp16, KvFormat::fp8, KvFormat::int8})
    for (const int64_t page_tokens : {16, 32, 64})
      for (const bool padded : {false, true}) {
        run_case({format, 8, 2, 128, page_tokens, padded});
        run_case({format, 9, 3, 64, page_tokens, padded});
        run_case({format, 2, 2, 64, page_tokens, padded});
      }
}

TEST(KvAppend, ShapedKeysAreStoredAsTheReferenceStoresThem) {
  for (const KvFormat format : {KvFormat::fp8, KvFormat::int8})
    for (const bool padded : {false, true})
      for (const int64_t rows : {1, 2, 7, 8, 17, 57, 63, 64, 65, 130, 512}) {
        run_case({format, 8, 2, 128, 64, padded, true, rows});
        run_case({format, 9, 3, 64, 16, padded, true, rows});
      }
}

// Row counts on both sides of each change of kernel and of its rows a block, with 8 KV heads.
TEST(KvAppend, ShapedKeysOfManyRows) {
  for (const KvFormat format : {KvFormat::fp8, KvFormat::int8})
    for (const int64_t rows : {16, 17, 132, 133, 521, 529, 1049, 1057, 1100}) {
      run_case({format, 16, 8, 128, 64, true, true, rows});
      run_case({format, 16, 8, 64, 64, false, true, rows});
    }
}

TEST(KvAppend, ShapedGroupsOfAllSizes) {
  for (const KvFormat format : {KvFormat::fp8, KvFormat::int8})
    for (const int64_t head_dim : {64, 128})
      for (const int64_t group : {1, 3, 4, 8})
        for (const int64_t rows : {3, 50, 150}) run_case({format, 8 * group, 8, head_dim, 32, true, true, rows});
}

// With heads of 128 the kernel for few rows does not fit into the shared memory of every card: the other one then
// stores the same bytes.
TEST(KvAppend, ShapedKeysOfCardsWithLessSharedMemory) {
  constexpr int64_t kOfA100 = 163 * 1024;
  constexpr auto kOfA10 = static_cast<int64_t>(kLeastSharedBytes);
  for (const int64_t rows : {1, 16, 17, 132})
    for (const int64_t group : {1, 4, 8}) {
      const KvLayout wide{KvFormat::fp8, 8, 128, 64}, narrow{KvFormat::fp8, 8, 64, 64};
      EXPECT_FALSE(kvcache::shaped_few_fits(wide, 8 * group, rows, kOfA10)) << rows << " " << group;
      EXPECT_TRUE(kvcache::shaped_few_fits(wide, 8 * group, rows, kOfA100)) << rows << " " << group;
      EXPECT_TRUE(kvcache::shaped_few_fits(narrow, 8 * group, rows, kOfA10)) << rows << " " << group;
      for (const KvFormat format : {KvFormat::fp8, KvFormat::int8})
        run_case({format, 8 * group, 8, 128, 64, true, true, rows, false, kOfA10});
    }
}

TEST(KvAppend, PlainRowsOfAllCounts) {
  for (const KvFormat format : {KvFormat::fp16, KvFormat::fp8, KvFormat::int8})
    for (const int64_t rows : {1, 2, 7, 8, 63, 64, 65, 130, 512}) {
      run_case({format, 32, 8, 128, 64, true, false, rows});
      run_case({format, 9, 3, 64, 16, true, false, rows});
    }
}

TEST(KvAppend, ShapedKeysOfSumsThatCancel) {
  for (const KvFormat format : {KvFormat::fp8, KvFormat::int8})
    for (const int64_t head_dim : {64, 128})
      for (const int64_t rows : {5, 50, 300, 600, 1100})
        run_case({format, 16, 8, head_dim, 64, false, true, rows, true});
}

// What the test above compares tells one order of sums from another.
TEST(KvAppend, StoredBytesShowTheOrderOfSums) {
  for (const KvFormat format : {KvFormat::fp8, KvFormat::int8})
    for (const int64_t d : {64, 128}) {
      const Case c{format, 1, 1, d, 16, false, true, 0, true};
      const KvShaping shaping = random_shaping(c.kv_heads, c.head_dim, c.cancelling);
      const float scale = c.scale().k;
      const int64_t keys = 64;
      const std::vector<float> x = normal_values(static_cast<size_t>(keys * d), 31, 1.5f);
      std::vector<float> scratch(static_cast<size_t>(d));
      std::vector<std::byte> right(static_cast<size_t>(d)), wrong(right.size());
      int64_t different = 0;
      for (int64_t key = 0; key < keys; ++key) {
        const float* from = x.data() + key * d;
        store_shaped_key(shaping, format, scale, 0, d, from, right.data(), scratch.data());
        for (int64_t i = 0; i < d; ++i) {
          float sum = 0;
          for (int64_t j = d; j-- > 0;)
            sum += shaping.k_transform[static_cast<size_t>(j * d + i)] *
                   (from[j] - shaping.k_center[static_cast<size_t>(j)]);
          scratch[static_cast<size_t>(i)] = sum * (1.0f / scale);
        }
        encode_with_feedback(format, shaping.k_feedback.data(), scratch.data(), wrong.data(), d);
        for (size_t i = 0; i < right.size(); ++i) different += right[i] != wrong[i];
      }
      std::printf("of %d bytes, %d differ with the other order\n", static_cast<int>(keys * d),
                  static_cast<int>(different));
      EXPECT_GT(different, keys * d / 200);
    }
}

TEST(KvAppend, RefusesOtherHeadSizes) {
  EXPECT_ANY_THROW(
      rope_and_append({}, {KvFormat::fp16, 2, 96, 16}, {}, 1, {nullptr, 0, 2}, nullptr, {}, nullptr, nullptr));
}

}  // namespace
}  // namespace qg::testing
