// Attention against a double-precision loop over the values that the cache really holds.
#include <gtest/gtest.h>

#include <numeric>

#include "core/parallel.h"
#include "kernels/attention/run.h"
#include "kernels/kvcache/run.h"
#include "tests/kernels/naive.h"

namespace qg {
namespace {

// One sequence in a paged cache, with its K and V as they come out of it: [tokens, kv_heads, head_dim].
struct CachedSequence {
  AttentionDesc desc;
  KvScale scale{0.03f, 0.02f};
  int64_t tokens = 0;
  std::vector<int32_t> pages;
  std::vector<std::byte> pool;
  std::vector<float> q, k, v;

  CachedSequence(KvFormat format, int64_t heads, int64_t kv_heads, int64_t head_dim, int64_t num_tokens)
      : tokens(num_tokens) {
    desc.heads = heads;
    desc.kv = {format, kv_heads, head_dim, 4};
    desc.score_scale = 1 / std::sqrt(static_cast<double>(head_dim));
    pages.resize(static_cast<size_t>((tokens + 3) / 4));
    std::iota(pages.rbegin(), pages.rend(), 1);
    // 0xff bytes are NaN in fp16 and fp8: reading a slot that was not written shows.
    pool.assign((pages.size() + 1) * static_cast<size_t>(desc.kv.page_bytes()), std::byte{0xff});
    q = test::random_floats(tokens * heads * head_dim, 1);
    k = test::random_floats(tokens * kv_heads * head_dim, 2);
    v = test::random_floats(tokens * kv_heads * head_dim, 3);
    const std::vector<KvAppendPiece> pieces{{0, tokens, 0, pages}};
    run_kv_append_reference(desc.kv, {k.data(), v.data(), kv_heads * head_dim, scale, pieces, pool.data()});
    through_format(k, scale.k);
    through_format(v, scale.v);
  }

  void through_format(std::vector<float>& x, float s) const {
    for (float& e : x) {
      if (desc.kv.format == KvFormat::fp8) e = static_cast<float>(test::round_e4m3(e * (1.0f / s))) * s;
      if (desc.kv.format == KvFormat::int8) e = static_cast<float>(test::round_int8(e * (1.0f / s))) * s;
      if (desc.kv.format == KvFormat::fp16) e = static_cast<float>(static_cast<_Float16>(e));
    }
  }

  std::vector<float> run(int64_t chunk) const {
    const int64_t width = desc.heads * desc.kv.head_dim;
    std::vector<float> out = test::poisoned(tokens * width);
    for (int64_t begin = 0; begin < tokens; begin += chunk) {
      const std::vector<AttentionPiece> pieces{{0, std::min(chunk, tokens - begin), begin, pages}};
      run_attention_reference(
          desc, {q.data() + begin * width, width, pool.data(), scale, pieces, out.data() + begin * width});
    }
    return out;
  }

  double naive(int64_t token, int64_t head, int64_t channel) const {
    const int64_t d = desc.kv.head_dim, kv_heads = desc.kv.kv_heads, kv_head = head / (desc.heads / kv_heads);
    const int64_t begin = desc.sliding_window ? std::max<int64_t>(0, token + 1 - *desc.sliding_window) : 0;
    double total = 0, sum = 0;
    for (int64_t t = begin; t <= token; ++t) {
      double score = 0;
      for (int64_t c = 0; c < d; ++c)
        score += static_cast<double>(q[static_cast<size_t>((token * desc.heads + head) * d + c)]) *
                 k[static_cast<size_t>((t * kv_heads + kv_head) * d + c)];
      const double weight = std::exp(score * desc.score_scale);
      total += weight;
      sum += weight * v[static_cast<size_t>((t * kv_heads + kv_head) * d + channel)];
    }
    return sum / total;
  }

  void expect_right(const std::vector<float>& out) const {
    const int64_t d = desc.kv.head_dim;
    for (int64_t token = 0; token < tokens; ++token)
      for (int64_t head = 0; head < desc.heads; ++head)
        for (int64_t c = 0; c < d; c += 3)
          ASSERT_NEAR(out[static_cast<size_t>((token * desc.heads + head) * d + c)], naive(token, head, c), 2e-5)
              << to_string(desc) << " token " << token << " head " << head;
  }
};

TEST(Attention, EqualsADoubleLoopForEveryFormatAndHeadCount) {
  for (const KvFormat format : {KvFormat::fp16, KvFormat::fp8, KvFormat::int8}) {
    for (const int64_t kv_heads : {1, 2, 6}) {
      for (const int64_t head_dim : {16, 20, 64}) {
        const CachedSequence sequence(format, 6, kv_heads, head_dim, 41);
        sequence.expect_right(sequence.run(41));
      }
    }
  }
}

TEST(Attention, SlidingWindow) {
  for (const int64_t window : {1, 5, 16, 17, 40, 100}) {
    CachedSequence sequence(KvFormat::fp16, 4, 2, 32, 75);
    sequence.desc.sliding_window = window;
    sequence.expect_right(sequence.run(75));
    EXPECT_EQ(sequence.run(1), sequence.run(75)) << window;
  }
}

TEST(Attention, ChunksGiveTheSameBits) {
  CachedSequence sequence(KvFormat::fp8, 9, 3, 64, 130);
  const std::vector<float> whole = sequence.run(130);
  for (const int64_t chunk : {1, 7, 16, 33, 64}) EXPECT_EQ(sequence.run(chunk), whole) << chunk;
  const int threads = num_threads();
  set_num_threads(3);
  EXPECT_EQ(sequence.run(130), whole);
  set_num_threads(threads);
}

TEST(Attention, SeveralPiecesInOneCall) {
  const CachedSequence sequence(KvFormat::fp16, 4, 2, 32, 50);
  const int64_t width = 4 * 32;
  const std::vector<float> whole = sequence.run(50);
  // Tokens 20..29, then token 49 alone, as a step with a prefill chunk and a decode has them.
  std::vector<float> q(sequence.q.begin() + 20 * width, sequence.q.begin() + 30 * width);
  q.insert(q.end(), sequence.q.begin() + 49 * width, sequence.q.end());
  std::vector<float> out = test::poisoned(11 * width);
  const std::vector<AttentionPiece> pieces{{0, 10, 20, sequence.pages}, {10, 1, 49, sequence.pages}};
  run_attention_reference(sequence.desc, {q.data(), width, sequence.pool.data(), sequence.scale, pieces, out.data()});
  EXPECT_TRUE(std::equal(out.begin(), out.begin() + 10 * width, whole.begin() + 20 * width));
  EXPECT_TRUE(std::equal(out.begin() + 10 * width, out.end(), whole.begin() + 49 * width));
}

TEST(Attention, LargeScoresDoNotOverflow) {
  CachedSequence sequence(KvFormat::fp16, 2, 1, 16, 20);
  for (float& e : sequence.q) e *= 200;
  for (const float e : sequence.run(20)) ASSERT_TRUE(std::isfinite(e));
}

TEST(Attention, DenseEqualsPaged) {
  const CachedSequence sequence(KvFormat::int8, 6, 2, 24, 45);
  std::vector<float> out = test::poisoned(45 * 6 * 24);
  // Two sequences of the same tokens' beginnings: the second starts anew.
  const std::vector<int64_t> lengths{45};
  run_dense_attention(sequence.desc,
                      {sequence.q.data(), sequence.k.data(), sequence.v.data(), 6 * 24, 2 * 24, lengths, out.data()});
  EXPECT_EQ(out, sequence.run(45));
  const std::vector<int64_t> parts{20, 25};
  run_dense_attention(sequence.desc,
                      {sequence.q.data(), sequence.k.data(), sequence.v.data(), 6 * 24, 2 * 24, parts, out.data()});
  // The first token of a sequence sees itself only: its output is its V.
  for (int64_t c = 0; c < 24; ++c)
    EXPECT_FLOAT_EQ(out[static_cast<size_t>(20 * 6 * 24 + c)], sequence.v[static_cast<size_t>(20 * 2 * 24 + c)]);
}

}  // namespace
}  // namespace qg
