#include "eval/fidelity.h"

#include <gtest/gtest.h>

#include <cmath>

#include "core/error.h"
#include "core/rng.h"
#include "tests/eval/fake_executor.h"

namespace qg {
namespace {

EvalText small_text() {
  EvalText text{"test", "", {}};
  for (int w = 0; w < 3; ++w) {
    std::vector<int32_t> window;
    for (int i = 0; i < 300; ++i)
      window.push_back(static_cast<int32_t>(Rng(9, static_cast<uint64_t>(w)).below(static_cast<uint64_t>(i), 50)));
    text.windows.push_back(window);
  }
  return text;
}

TEST(Fidelity, EqualsNaiveSumsInDouble) {
  FakeExecutor base(50, 2, 0.0), other(50, 3, 0.4);
  const EvalText text = small_text();
  Executor* candidates[] = {&other};
  int64_t tokens = 0;
  const FidelityScores scores = score_fidelity(base, candidates, text, [&](int64_t n) { tokens += n; });
  EXPECT_EQ(tokens, 2 * 900);
  ASSERT_EQ(scores.base.nll.size(), 897u);
  double nll = 0, base_nll = 0, kld = 0, same = 0;
  for (const auto& window : text.windows)
    for (size_t i = 0; i + 1 < window.size(); ++i) {
      double zp = 0, zq = 0;
      std::vector<double> p(50), q(50);
      for (int v = 0; v < 50; ++v) {
        zp += p[v] = std::exp(static_cast<double>(base.logit(window[i], static_cast<int64_t>(i), v)));
        zq += q[v] = std::exp(static_cast<double>(other.logit(window[i], static_cast<int64_t>(i), v)));
      }
      for (int v = 0; v < 50; ++v) kld += p[v] / zp * std::log(p[v] / zp / (q[v] / zq));
      base_nll -= std::log(p[window[i + 1]] / zp);
      nll -= std::log(q[window[i + 1]] / zq);
      same += std::max_element(p.begin(), p.end()) - p.begin() == std::max_element(q.begin(), q.end()) - q.begin();
    }
  const FidelityResult r = summarize(scores.base, scores.candidates[0], 3);
  EXPECT_NEAR(r.ppl.value, std::exp(nll / 897), 1e-5 * r.ppl.value);
  EXPECT_NEAR(r.base_ppl.value, std::exp(base_nll / 897), 1e-5 * r.base_ppl.value);
  EXPECT_NEAR(r.ppl_ratio.value, std::exp((nll - base_nll) / 897), 1e-5);
  EXPECT_GT(std::fabs(r.ppl_ratio.value - 1), 0.01) << "base and candidate are too alike to tell which is which";
  EXPECT_NEAR(r.kld_mean.value, kld / 897, 1e-6);
  EXPECT_NEAR(r.top1.value, same / 897, 1e-12);
  EXPECT_LT(r.kld_mean.lo, r.kld_mean.value);
  EXPECT_GT(r.kld_mean.hi, r.kld_mean.value);
  EXPECT_EQ(r.tokens, 897);
}

// A base that is no longer there gives what one beside the candidates gives.
TEST(Fidelity, KeptLogitsGiveTheSameFigures) {
  const EvalText text = small_text();
  FakeExecutor base(50, 2, 0.0), one(50, 3, 0.4), two(50, 4, 0.2);
  Executor* both[] = {&one, &two};
  const FidelityScores beside = score_fidelity(base, both, text, [](int64_t) {});
  int64_t tokens = 0;
  const auto count = [&](int64_t n) { tokens += n; };
  const BaseLogits kept(base, text, count);
  for (size_t c = 0; c < 2; ++c) {
    const FidelityScores apart = score_fidelity(kept, std::span(both).subspan(c, 1), text, count);
    EXPECT_EQ(apart.base.nll, beside.base.nll);
    EXPECT_EQ(apart.candidates[0].nll, beside.candidates[c].nll);
    EXPECT_EQ(apart.candidates[0].kld, beside.candidates[c].kld);
    EXPECT_EQ(apart.candidates[0].top1, beside.candidates[c].top1);
  }
  EXPECT_EQ(tokens, 3 * 900);
}

TEST(Fidelity, BasesWhoseLogitsFillTheMemoryAreRefused) {
  FakeExecutor huge(int64_t{1} << 40, 2, 0.0);
  EXPECT_THROW(BaseLogits(huge, small_text(), [](int64_t) {}), Error);
}

TEST(Fidelity, IdenticalModelsHaveNoDistance) {
  FakeExecutor base(50, 2, 0.0), same(50, 3, 0.0);
  Executor* candidates[] = {&same};
  const FidelityScores scores = score_fidelity(base, candidates, small_text(), [](int64_t) {});
  const FidelityResult r = summarize(scores.base, scores.candidates[0], 3);
  EXPECT_LE(r.kld_mean.hi, 1e-9);
  EXPECT_EQ(r.top1.value, 1);
  EXPECT_EQ(r.ppl_ratio.value, 1);
}

TEST(Fidelity, RefusesOtherVocabularyForeignTokensAndShortCaches) {
  FakeExecutor base(50, 2, 0), other(51, 2, 0), small(20, 2, 0), tiny(50, 2, 0, 3);
  const EvalText text = small_text();
  Executor* different[] = {&other};
  EXPECT_THROW(score_fidelity(base, different, text, [](int64_t) {}), Error);
  EXPECT_THROW(score_fidelity(small, {}, text, [](int64_t) {}), Error);
  EXPECT_THROW(score_fidelity(tiny, {}, text, [](int64_t) {}), Error);
}

// A model that overflows must not pass for one that equals its base.
TEST(Fidelity, RefusesLogitsThatAreNotFinite) {
  const float nan = std::nanf("");
  const std::vector<float> sound{1, 2, 3}, broken{1, nan, 3};
  EXPECT_TRUE(std::isnan(kl_divergence(sound, broken)));
  TokenScores base, candidate;
  base.nll.assign(200, 1.0);
  candidate = base;
  candidate.kld.assign(200, 0.0);
  candidate.top1.assign(200, 1.0);
  EXPECT_NO_THROW(summarize(base, candidate, 1));
  candidate.nll[7] = nan;
  try {
    summarize(base, candidate, 1);
    FAIL() << "a perplexity was made of NaN";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("the model are not finite (NaN or infinity) at 1 of 200"), std::string::npos)
        << e.what();
  }
  EXPECT_THROW(summarize(candidate, base, 1), Error);
}

TEST(KlDivergence, SurvivesExtremeLogits) {
  const std::vector<float> p{1000, -1000, 0}, q{-1000, 1000, 0};
  EXPECT_NEAR(kl_divergence(p, q), 2000, 1e-3);
  EXPECT_EQ(kl_divergence(p, p), 0);
  EXPECT_NEAR(log_sum_exp(p), 1000, 1e-6);
}

}  // namespace
}  // namespace qg
