// The judge of what calibration learns of keys (kv_statistics_check.h) sees the CPU's collector pass and broken sums
// fail.
#include "tests/quantize/kv_statistics_check.h"

#include <gtest/gtest.h>

#include <functional>

#include "core/rng.h"

namespace qg::testing {
namespace {

ModelShape small_shape(std::optional<int64_t> window) {
  ModelShape s;
  s.layers = 1;
  s.hidden = 96;
  s.heads = 4;
  s.kv_heads = 2;
  s.head_dim = 32;
  s.sliding_window = window;
  return s;
}

std::vector<float> values(int64_t count, uint64_t seed, double deviation) {
  std::vector<float> x;
  for (int64_t i = 0; i < count; ++i)
    x.push_back(static_cast<float>(deviation * Rng(seed).normal(static_cast<uint64_t>(i))));
  return x;
}

const std::vector<int64_t> kLengths{130, 37};

std::vector<KeyStatistics> collected(const ModelShape& s, const std::vector<float>& wo, const std::vector<float>& qkv,
                                     const std::vector<int64_t>& lengths) {
  KvShapingCollector collector(s, wo, 167);
  const float* at = qkv.data();
  for (const int64_t length : lengths) {
    collector.add(at, length);
    at += length * s.qkv_rows();
  }
  return collector.statistics();
}

TEST(KvStatisticsCheck, PassesTheCpusCollectorAndRefusesBrokenSums) {
  for (const std::optional<int64_t> window : {std::optional<int64_t>{}, std::optional<int64_t>{20}}) {
    const ModelShape s = small_shape(window);
    const std::vector<float> wo = values(s.hidden * s.q_rows(), 1, 0.05), qkv = values(167 * s.qkv_rows(), 2, 1);
    const std::vector<KeyTruth> truth = key_truth(s, wo, qkv, kLengths);
    const std::vector<KeyStatistics> sound = collected(s, wo, qkv, kLengths);
    const double gap = statistics_gap(sound, truth);
    EXPECT_LE(gap, 1);
    std::printf("window %d: %.4f of the bound\n", static_cast<int>(window.value_or(0)), gap);

    EXPECT_GT(
        statistics_gap(collected(small_shape(window ? std::nullopt : std::optional<int64_t>{100}), wo, qkv, kLengths),
                       truth),
        1)
        << "another window";
    EXPECT_GT(statistics_gap(collected(s, wo, qkv, {129, 38}), truth), 1) << "sequences cut elsewhere";
    std::vector<float> other = wo;
    std::swap_ranges(other.begin(), other.begin() + 32, other.begin() + 32);
    EXPECT_GT(statistics_gap(collected(s, other, qkv, kLengths), truth), 1) << "outputs of two heads exchanged";
    const auto spoiled = [&](const std::function<void(std::vector<KeyStatistics>&)>& spoil) {
      std::vector<KeyStatistics> heads = sound;
      spoil(heads);
      return statistics_gap(heads, truth);
    };
    EXPECT_GT(spoiled([](auto& h) { h[1].query_gram(3, 4) *= 1.01; }), 1);
    EXPECT_GT(spoiled([](auto& h) { h[0].key_moment(7, 7) *= 0.99; }), 1);
    EXPECT_GT(spoiled([](auto& h) { h[0].key_sum[5] += 0.01 * h[0].key_weight; }), 1);
    EXPECT_GT(spoiled([](auto& h) { h[1].plain_sum[0] += 1e-6; }), 1);
    EXPECT_GT(spoiled([](auto& h) { h[1].key_weight *= 1.01; }), 1);
    EXPECT_GT(spoiled([](auto& h) { std::swap(h[0], h[1]); }), 1);
    EXPECT_EQ(spoiled([](auto& h) { h[0].query_gram(0, 0) = NAN; }), INFINITY);
  }
}

}  // namespace
}  // namespace qg::testing
