// The judges of error feedback's codes and factors (feedback_check.h) see a right implementation pass and each of
// several broken ones fail: what a kernel could get wrong, done here to its results. And the CPU's quantizers pass.
#include "tests/quantize/feedback_check.h"

#include <gtest/gtest.h>

#include <functional>
#include <numeric>

#include "core/rng.h"
#include "quantize/group.h"
#include "tests/quantize/feedback_factor_check.h"
#include "tests/quantize/feedback_group.h"

namespace qg::testing {
namespace {

constexpr int64_t kRows = 24, kIn = 160, kTokens = 700, kBlock = 64, kGroup = 32;
constexpr double kDamp = 0.01;

std::vector<float> inputs() {
  std::vector<float> x(static_cast<size_t>(kTokens * kIn));
  for (int64_t r = 0; r < kTokens; ++r) {
    double before = 0;
    for (int64_t c = 0; c < kIn; ++c) {
      before = 0.7 * before + Rng(5).normal(static_cast<uint64_t>(r * kIn + c));
      x[static_cast<size_t>(r * kIn + c)] = static_cast<float>(before * (c % 37 == 4 ? 8 : 1));
    }
  }
  return x;
}

GroupProblem problem() {
  GroupProblem p;
  p.rows = {kRows};
  p.n = kRows;
  p.k = kIn;
  for (int64_t i = 0; i < kRows * kIn; ++i)
    p.weight.push_back(static_cast<float>(0.05 * Rng(6).normal(static_cast<uint64_t>(i))));
  CalibrationOptions options;
  options.sample_rows = 64;
  ActivationCollector collector(kIn, kTokens, options, true);
  collector.add(inputs(), kTokens);
  p.input = collector.finish();
  return p;
}

std::vector<int32_t> by_importance(const std::vector<float>& gram, const std::vector<float>& down) {
  std::vector<float> diagonal;
  for (size_t i = 0; i < static_cast<size_t>(kIn); ++i) {
    const float f = down.empty() ? 1.0f : down[i] * down[i];
    diagonal.push_back(gram[i * kIn + i] * f);
  }
  std::vector<int32_t> order(static_cast<size_t>(kIn));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) {
    return diagonal[static_cast<size_t>(a)] > diagonal[static_cast<size_t>(b)];
  });
  return order;
}

// H = L^T L from the last row up, in double; then as FeedbackRun's factor.
std::vector<float> factor_of(std::vector<double> h) {
  const auto at = [](int64_t i, int64_t j) { return static_cast<size_t>(i * kIn + j); };
  std::vector<float> factor(h.size());
  for (int64_t i = kIn - 1; i >= 0; --i) {
    const double pivot = std::sqrt(h[at(i, i)]);
    factor[at(i, i)] = static_cast<float>(pivot);
    for (int64_t j = 0; j < i; ++j) factor[at(i, j)] = static_cast<float>(h[at(i, j)] / h[at(i, i)]);
    for (int64_t r = 0; r < i; ++r)
      for (int64_t c = 0; c <= r; ++c) h[at(r, c)] -= h[at(i, r)] * h[at(i, c)] / (pivot * pivot);
  }
  return factor;
}

// How the codes are made; a broken maker differs in one of these.
struct Maker {
  std::function<int32_t(int64_t)> column;              // rounded t-th; null: as the run's order says
  std::function<float(int64_t, int64_t, float)> take;  // (t, j, M_tj): what column t takes of the gap of column j
  bool clamp = true;
};

// In float, the sums from the last term to the first: another order than the checker's.
void round(FeedbackRun& run, const Maker& maker) {
  run.codes.assign(run.weight.size(), 0);
  for (int64_t r = 0; r < run.n; ++r) {
    std::vector<float> gaps(static_cast<size_t>(run.k));
    for (int64_t t = 0; t < run.k; ++t) {
      const int64_t column = maker.column ? maker.column(t) : run.order[static_cast<size_t>(t)];
      const auto at = static_cast<size_t>(r * run.k + column);
      const size_t grid = run.grid_of(r, column);
      float v = 0;
      for (int64_t j = t - 1; j >= 0; --j)
        v += gaps[static_cast<size_t>(j)] * maker.take(t, j, run.factor[static_cast<size_t>(t * run.k + j)]);
      v += run.weight[at];
      const float z = v / run.scales[grid];
      float number = 0;
      if (run.format == WeightFormat::fp8) {
        run.codes[at] = e4m3_from_f32(z);
        number = f32_from_e4m3(run.codes[at]);
      } else if (run.format == WeightFormat::int8_sq) {
        number = std::nearbyint(z);
        if (maker.clamp) number = std::clamp(number, -127.0f, 127.0f);
        run.codes[at] = static_cast<uint8_t>(static_cast<int8_t>(static_cast<int>(number)));
      } else {
        float u = std::nearbyint(z) + run.zeros[grid];
        if (maker.clamp) u = std::clamp(u, 0.0f, 15.0f);
        run.codes[at] = static_cast<uint8_t>(static_cast<int>(u) & 15);
        number = u - run.zeros[grid];
      }
      gaps[static_cast<size_t>(t)] = run.weight[at] - number * run.scales[grid];
    }
  }
}

Maker right() {
  return {nullptr, [](int64_t, int64_t, float m) { return m; }, true};
}

FeedbackRun run_of(WeightFormat format, const GroupProblem& p) {
  FeedbackRun run;
  run.format = format;
  run.n = kRows;
  run.k = kIn;
  run.weight = p.weight;
  run.order = by_importance(p.input.gram, {});
  run.factor = factor_of(damped_in_order(p.input.gram, {}, kDamp, run.order));
  // Scales that leave some values outside the range.
  const float range = format == WeightFormat::fp8 ? 448.0f : format == WeightFormat::int8_sq ? 127.0f : 7.0f;
  run.group = format == WeightFormat::int4_awq ? kGroup : 0;
  const int64_t scales = kRows * (run.group > 0 ? kIn / kGroup : 1);
  for (int64_t i = 0; i < scales; ++i) {
    run.scales.push_back(0.15f * (1.0f + 0.01f * static_cast<float>(i % 7)) / range);
    run.zeros.push_back(static_cast<float>(7 + i % 3));
  }
  return run;
}

constexpr WeightFormat kFormats[] = {WeightFormat::fp8, WeightFormat::int8_sq, WeightFormat::int4_awq};

TEST(FeedbackCheck, PassesARightRounding) {
  const GroupProblem p = problem();
  for (const WeightFormat format : kFormats) {
    FeedbackRun run = run_of(format, p);
    EXPECT_LE(factor_gap(damped_in_order(p.input.gram, {}, kDamp, run.order), run.factor, kIn, kIn), 1);
    round(run, right());
    const FeedbackVerdict verdict = check_feedback(run);
    EXPECT_EQ(verdict.wrong, 0) << to_string(format) << ", row " << verdict.first_row << ", place "
                                << verdict.first_place;
    // To nearest: the same judge without a factor, and a larger error by the factor's measure.
    FeedbackRun nearest = run;
    Maker none = right();
    none.take = [](int64_t, int64_t, float) { return 0.0f; };
    round(nearest, none);
    const double plain = check_feedback(nearest).objective;
    EXPECT_LT(verdict.objective + objective_margin(verdict, verdict), plain) << to_string(format);
    nearest.factor.clear();
    EXPECT_EQ(check_feedback(nearest).wrong, 0) << to_string(format);
    nearest.codes[77] ^= 1;
    EXPECT_EQ(check_feedback(nearest).wrong, 1) << to_string(format);
  }
}

// The CPU's quantizers carry residuals of v through the factor of the inverse, rounded to float: the same numbers up to
// rounding in more places, for which a thousandth of a step is left.
TEST(FeedbackCheck, PassesTheCpusQuantizers) {
  for (const WeightFormat format : kFormats) {
    const GroupProblem p = problem();
    Recipe recipe = default_recipe(format);
    recipe.group_size = format == WeightFormat::int4_awq ? kGroup : 0;
    const GroupResult result = quantize_group(p, recipe, recipe.spec({kIn}));
    const std::vector<float> down = down_of(result);
    FeedbackRun run = run_of_group(result, p.weight, down);
    run.order = by_importance(p.input.gram, down);
    run.factor = factor_of(damped_in_order(p.input.gram, down, recipe.damp, run.order));
    run.more_slack = 1e-3;
    EXPECT_EQ(check_feedback(run).wrong, 0) << to_string(format);
  }
}

TEST(FeedbackCheck, RefusesBrokenRoundings) {
  const GroupProblem p = problem();
  for (const WeightFormat format : kFormats) {
    const FeedbackRun sound = run_of(format, p);
    const auto wrong = [&](const Maker& maker) {
      FeedbackRun run = sound;
      round(run, maker);
      return check_feedback(run).wrong;
    };
    const auto with_take = [&](std::function<float(int64_t, int64_t, float)> take) {
      Maker maker = right();
      maker.take = std::move(take);
      return wrong(maker);
    };
    const std::string name(to_string(format));
    EXPECT_GT(with_take([](int64_t, int64_t, float) { return 0.0f; }), 50) << name << ": no feedback";
    EXPECT_GT(with_take([](int64_t, int64_t, float m) { return -m; }), 50) << name << ": the wrong sign";
    EXPECT_GT(with_take([](int64_t t, int64_t j, float m) { return t / kBlock == j / kBlock ? m : 0.0f; }), 50)
        << name << ": only within a block";
    EXPECT_GT(with_take([](int64_t t, int64_t j, float m) { return t / kBlock != j / kBlock ? m : 0.0f; }), 50)
        << name << ": only between blocks";
    EXPECT_GT(with_take([](int64_t t, int64_t j, float m) { return j + 1 == t ? 0.0f : m; }), 50)
        << name << ": the neighbour's gap is not there yet";
    EXPECT_GT(with_take([](int64_t, int64_t j, float m) { return j == 70 ? 0.0f : m; }), 0)
        << name << ": one column's gap is lost";
    Maker swapped = right();
    swapped.column = [&](int64_t t) { return sound.order[static_cast<size_t>(t == 9 ? 10 : t == 10 ? 9 : t)]; };
    EXPECT_GT(wrong(swapped), 0) << name << ": two columns in the wrong order";
    if (format != WeightFormat::fp8) {
      Maker wraps = right();
      wraps.clamp = false;
      EXPECT_GT(wrong(wraps), 0) << name << ": codes beyond the range wrap around";
    }
    // One code in the last place, by one step: nothing comes after it that could tell.
    FeedbackRun run = sound;
    round(run, right());
    const auto last = static_cast<size_t>(3 * kIn + run.order.back());
    run.codes[last] = static_cast<uint8_t>(run.codes[last] ^ 1);
    const FeedbackVerdict verdict = check_feedback(run);
    EXPECT_EQ(verdict.wrong, 1) << name;
    EXPECT_EQ(verdict.first_row, 3) << name;
    EXPECT_EQ(verdict.first_place, kIn - 1) << name;
  }
}

TEST(FeedbackCheck, RefusesBrokenFactors) {
  const GroupProblem p = problem();
  const std::vector<int32_t> order = by_importance(p.input.gram, {});
  const std::vector<double> h = damped_in_order(p.input.gram, {}, kDamp, order);
  const std::vector<float> sound = factor_of(h);
  EXPECT_LE(factor_gap(h, sound, kIn, 128), 1);
  const auto gap_with = [&](const std::function<void(std::vector<float>&)>& spoil) {
    std::vector<float> factor = sound;
    spoil(factor);
    return factor_gap(h, factor, kIn, 128);
  };
  const auto at = [](int64_t i, int64_t j) { return static_cast<size_t>(i * kIn + j); };
  EXPECT_GT(gap_with([&](auto& f) { f[at(150, 149)] *= 1.01f; }), 1);
  EXPECT_GT(gap_with([&](auto& f) { f[at(40, 40)] *= 1.01f; }), 1);
  EXPECT_GT(gap_with([&](auto& f) { f[at(140, 20)] += 0.01f; }), 1);
  EXPECT_EQ(gap_with([&](auto& f) { f[at(7, 3)] = NAN; }), INFINITY);
  EXPECT_EQ(gap_with([&](auto& f) { f[at(7, 7)] = 0; }), INFINITY);
  // Without damping, and of another order.
  EXPECT_GT(factor_gap(damped_in_order(p.input.gram, {}, 0, order), sound, kIn, 128), 1);
  std::vector<int32_t> other = order;
  std::swap(other[9], other[10]);
  EXPECT_GT(factor_gap(damped_in_order(p.input.gram, {}, kDamp, other), sound, kIn, 128), 1);
}

}  // namespace
}  // namespace qg::testing
