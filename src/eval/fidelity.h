#pragma once
// Perplexity, KL divergence and top-1 agreement of quantized models against their base, on the same text at the same
// time: the base's logits of a chunk are compared and forgotten, so no file of logits is ever written and one pass of
// the base serves any number of candidates. Where there is no room for both, the base's logits are kept.
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "eval/bootstrap.h"
#include "eval/windows.h"
#include "runtime/executor.h"

namespace qg {

// One entry per scored token; index = position in the text.
struct TokenScores {
  std::vector<double> nll;   // -log p(true token), nats
  std::vector<double> kld;   // KL(base || candidate) over the whole vocabulary, nats; empty for the base itself
  std::vector<double> top1;  // 1 where the most likely token is the base's; empty for the base itself
};

struct FidelityResult {
  Interval ppl, base_ppl;  // exp(mean nll)
  Interval ppl_ratio;      // ppl / base_ppl, paired
  Interval kld_mean, top1;
  int64_t windows = 0, tokens = 0;
};

struct FidelityScores {
  TokenScores base;
  std::vector<TokenScores> candidates;
};

// Rows of a step that score_fidelity sends at most. It bounds the memory for logits: 128 rows of a vocabulary of
// 128,256 are 66 MB per executor.
inline constexpr int64_t kFidelityRows = 128;

// Runs base and candidates over all windows. Executors must have KV pages for one window and take kFidelityRows rows.
// on_tokens is called with the number of tokens done by one executor (for progress); it may throw to stop. Throws Error
// when vocabularies differ.
FidelityScores score_fidelity(Executor& base, std::span<Executor* const> candidates, const EvalText& text,
                              const std::function<void(int64_t tokens)>& on_tokens);

// A base's logits of a whole text, in this machine's memory: 4.2 GB for 8 windows of 1,024 tokens of Llama 3. The base
// may go before the candidates come.
class BaseLogits {
 public:
  // Runs the base over all windows. Throws Error when its logits take more than half of the memory.
  BaseLogits(Executor& base, const EvalText& text, const std::function<void(int64_t tokens)>& on_tokens);
  int64_t vocab() const { return vocab_; }
  const TokenScores& scores() const { return scores_; }
  const std::vector<std::vector<float>>& chunks() const { return chunks_; }  // in the order of the text

 private:
  int64_t vocab_;
  TokenScores scores_;
  std::vector<std::vector<float>> chunks_;
};

// The same figures from kept logits: equal to the last bit.
FidelityScores score_fidelity(const BaseLogits& base, std::span<Executor* const> candidates, const EvalText& text,
                              const std::function<void(int64_t tokens)>& on_tokens);

// Throws Error when logits were not finite: no figure stands for such a model.
FidelityResult summarize(const TokenScores& base, const TokenScores& candidate, int64_t windows,
                         const BootstrapOptions& options = {});

// log(sum(exp(x))) in double, exact to rounding for any range of x.
double log_sum_exp(std::span<const float> x);
// KL(p || q) in nats of two softmaxes given as logits.
double kl_divergence(std::span<const float> base_logits, std::span<const float> logits);

}  // namespace qg
