// RoPE and storing in the paged cache on the GPU: the stored bytes equal what rope() and run_kv_append_reference()
// store, bit by bit (the kernel does the same operations in the same order), and nothing else is touched.
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "kernels/attention/desc.h"
#include "kernels/kvcache/cuda.h"
#include "kernels/kvcache/shaping.h"
#include "kernels/pointwise/run.h"
#include "tests/gpu/paged_batch.h"

namespace qg::testing {
namespace {

constexpr int64_t kPositions = 5000;

std::vector<double> frequencies(int64_t head_dim) {
  std::vector<double> f;
  for (int64_t i = 0; i < head_dim / 2; ++i)
    f.push_back(std::pow(500000.0, -2.0 * static_cast<double>(i) / static_cast<double>(head_dim)));
  return f;
}

std::vector<float2> device_table(int64_t head_dim) {
  std::vector<int64_t> positions(kPositions);
  std::iota(positions.begin(), positions.end(), 0);
  const RopeTable table = make_rope_table(frequencies(head_dim), positions);
  std::vector<float2> pairs(table.cosine.size());
  for (size_t i = 0; i < pairs.size(); ++i) pairs[i] = {table.cosine[i], table.sine[i]};
  return pairs;
}

struct Case {
  KvFormat format;
  int64_t heads, kv_heads, head_dim, page_tokens;
  bool padded;  // some rows are padding of a batch
  bool shaped = false;
};

std::vector<float> half_values(size_t count, uint64_t seed, float deviation) {
  return from_half(to_half(normal_values(count, seed, deviation)));
}

// Matrices of no meaning, of the sizes and kinds that calibration makes; F is zero on and left of the diagonal.
KvShaping random_shaping(const Case& c) {
  const size_t heads = static_cast<size_t>(c.kv_heads), d = static_cast<size_t>(c.head_dim);
  KvShaping shaping;
  shaping.k_center = normal_values(heads * d, 21);
  shaping.k_transform = half_values(heads * d * d, 22, 0.1f);
  shaping.q_transform = half_values(heads * d * d, 23, 0.1f);
  shaping.k_feedback = half_values(heads * d * d, 24, 0.2f);
  for (size_t i = 0; i < shaping.k_feedback.size(); ++i)
    if (i % d <= i / d % d) shaping.k_feedback[i] = 0;
  return shaping;
}

// The same on the device.
struct DeviceShaping {
  DeviceVector<float> center;
  DeviceVector<uint16_t> k, q, feedback;
  explicit DeviceShaping(const KvShaping& s)
      : center(s.k_center), k(to_half(s.k_transform)), q(to_half(s.q_transform)), feedback(to_half(s.k_feedback)) {}
  CudaKvShaping view() const {
    const auto half = [](const DeviceVector<uint16_t>& v) { return reinterpret_cast<const __half*>(v.data()); };
    return {center.data(), half(k), half(q), half(feedback)};
  }
};

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
    ADD_FAILURE() << to_string(c.format) << " head_dim " << c.head_dim << " page " << c.page_tokens << ": byte "
                  << i % page_bytes << " of page " << i / page_bytes << " is " << static_cast<int>(got[i]) << ", want "
                  << static_cast<int>(want[i]) << ", was " << static_cast<int>(batch.pool()[i]);
    ++reported;
  }
}

void run_case(const Case& c) {
  const KvLayout layout{c.format, c.kv_heads, c.head_dim, c.page_tokens};
  PagedBatch batch(layout, {{1, 1}, {1, 16}, {1, 17}, {1, 64}, {1, 4097}, {5, 5}, {64, 64}, {100, 163}, {129, 1129}});
  const int64_t d = c.head_dim, stride = (c.heads + 2 * c.kv_heads) * d + 8;
  // Scales so small that some codes saturate.
  const KvScale scale = c.format == KvFormat::fp16  ? KvScale{}
                        : c.format == KvFormat::fp8 ? KvScale{0.007f, 0.005f}
                                                    : KvScale{0.021f, 0.027f};
  const std::vector<uint16_t> qkv = to_half(normal_values(static_cast<size_t>(batch.rows() * stride), 11, 1.5f));
  const KvShaping shaping = random_shaping(c);
  const Expected want = expect(c, batch, from_half(qkv), stride, scale, c.shaped ? &shaping : nullptr);
  const DeviceShaping device_shaping(shaping);
  const CudaKvShaping shaping_view = device_shaping.view();

  const DeviceBatch device(batch);
  const DeviceVector<uint16_t> device_qkv(qkv);
  const DeviceVector<float2> table(device_table(d));
  const DeviceVector<uint16_t> q(static_cast<size_t>(batch.rows() * c.heads * d));
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
                  reinterpret_cast<__half*>(q.data()), device.pool(), c.shaped ? &shaping_view : nullptr);
  expect_same_pool(c, batch, device.read_pool(), want.pool);
  const std::vector<uint16_t> want_q = to_half(want.q), got_q = q.read();
  const size_t q_row = static_cast<size_t>(c.heads * d);
  int reported = 0;
  for (size_t i = 0; i < got_q.size() && reported < 5; ++i) {
    // The shaped q is a sum of head_dim products of magnitude 0.1 in float, then rounded to f16.
    const float got = f32_from_f16(got_q[i]), tolerance = std::fabs(want.q[i]) / 2048 + 1e-5f;
    if (c.shaped ? std::fabs(got - want.q[i]) <= tolerance : got_q[i] == want_q[i]) continue;
    ADD_FAILURE() << "q of row " << i / q_row << ", element " << i % q_row << ": got " << got << ", want " << want.q[i];
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
    for (const bool padded : {false, true}) {
      run_case({format, 8, 2, 128, 64, padded, true});
      run_case({format, 9, 3, 64, 16, padded, true});
    }
}

TEST(KvAppend, RefusesOtherHeadSizes) {
  EXPECT_ANY_THROW(
      rope_and_append({}, {KvFormat::fp16, 2, 96, 16}, {}, 1, {nullptr, 0, 2}, nullptr, {}, nullptr, nullptr));
}

}  // namespace
}  // namespace qg::testing
