#include "eval/fidelity.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/memory.h"
#include "core/parallel.h"

namespace qg {
namespace {

int64_t argmax(std::span<const float> x) {
  return std::max_element(x.begin(), x.end()) - x.begin();
}

// Sums of exponentials are taken in double over blocks of float exponentials relative to the maximum: the exponentials
// carry 24 bits, and their sum no more error than that.
struct SoftmaxSums {
  float max;
  double sum;
  double log_z() const { return static_cast<double>(max) + std::log(sum); }
};

SoftmaxSums softmax_sums(std::span<const float> x) {
  SoftmaxSums s{*std::max_element(x.begin(), x.end()), 0};
  for (float v : x) s.sum += static_cast<double>(std::exp(v - s.max));
  return s;
}

struct Chunk {
  const EvalText* text;
  size_t window;
  int64_t begin, count;
};

void run_chunk(Executor& executor, const Chunk& chunk, std::span<const int32_t> pages, StepOutput& out) {
  SequencePiece piece;
  piece.num_tokens = chunk.count;
  piece.context_tokens = chunk.begin;
  piece.pages = pages;
  StepInput input;
  input.tokens = std::span(chunk.text->windows[chunk.window])
                     .subspan(static_cast<size_t>(chunk.begin), static_cast<size_t>(chunk.count));
  input.pieces = std::span(&piece, 1);
  input.logits = LogitsWanted::all;
  executor.step(input, out);
}

std::vector<int32_t> window_pages(const Executor& executor, int64_t window) {
  const int64_t pages = (window + executor.page_tokens() - 1) / executor.page_tokens();
  if (pages > executor.num_pages())
    throw Error("the KV cache holds " + std::to_string(executor.num_pages() * executor.page_tokens()) +
                    " tokens, a window has " + std::to_string(window),
                "", "use a smaller --window", ExitCode::cannot_here);
  std::vector<int32_t> list(static_cast<size_t>(pages));
  std::iota(list.begin(), list.end(), 0);
  return list;
}

// Scores the rows of one chunk whose next token lies in the window.
class ChunkScorer {
 public:
  ChunkScorer(const Chunk& chunk, int64_t vocab) : vocab_(static_cast<size_t>(vocab)) {
    const auto& window = chunk.text->windows[chunk.window];
    for (int64_t i = 0; i < chunk.count && chunk.begin + i + 1 < static_cast<int64_t>(window.size()); ++i)
      targets_.push_back(window[static_cast<size_t>(chunk.begin + i + 1)]);
  }

  void score_base(const std::vector<float>& logits, TokenScores& scores) const {
    const size_t at = grow(scores.nll);
    each_row([&](size_t i) { scores.nll[at + i] = nll(row(logits, i), targets_[i]); });
  }

  void score(const std::vector<float>& base, const std::vector<float>& logits, TokenScores& scores) const {
    const size_t at = grow(scores.nll);
    grow(scores.kld);
    grow(scores.top1);
    each_row([&](size_t i) {
      const auto p = row(base, i), q = row(logits, i);
      scores.nll[at + i] = nll(q, targets_[i]);
      scores.kld[at + i] = kl_divergence(p, q);
      scores.top1[at + i] = argmax(p) == argmax(q) ? 1 : 0;
    });
  }

 private:
  size_t grow(std::vector<double>& column) const {
    const size_t at = column.size();
    column.resize(at + targets_.size());
    return at;
  }
  std::span<const float> row(const std::vector<float>& logits, size_t i) const {
    return std::span(logits).subspan(i * vocab_, vocab_);
  }
  static double nll(std::span<const float> logits, int32_t target) {
    return log_sum_exp(logits) - static_cast<double>(logits[static_cast<size_t>(target)]);
  }
  template <class Fn>
  void each_row(const Fn& fn) const {
    parallel_for(static_cast<int64_t>(targets_.size()), 4, [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) fn(static_cast<size_t>(i));
    });
  }

  size_t vocab_;
  std::vector<int32_t> targets_;
};

// Windows in pieces of kFidelityRows.
template <class Fn>
void each_chunk(const EvalText& text, const Fn& fn) {
  for (size_t w = 0; w < text.windows.size(); ++w) {
    const auto window = static_cast<int64_t>(text.windows[w].size());
    for (int64_t begin = 0; begin < window; begin += kFidelityRows) {
      stop_if_interrupted("evaluation starts again, finished cases stay");
      fn(Chunk{&text, w, begin, std::min(kFidelityRows, window - begin)});
    }
  }
}

void run_chunk(Executor& executor, const Chunk& chunk, StepOutput& out) {
  const auto window = static_cast<int64_t>(chunk.text->windows[chunk.window].size());
  run_chunk(executor, chunk, window_pages(executor, window), out);
}

void check_comparable(int64_t vocab, std::span<Executor* const> candidates, const EvalText& text) {
  for (const Executor* c : candidates)
    if (c->table().shape.vocab != vocab)
      throw Error("base has a vocabulary of " + std::to_string(vocab) + ", the candidate one of " +
                      std::to_string(c->table().shape.vocab),
                  "", "compare a quantized model with the model that it was made from");
  for (const auto& window : text.windows)
    for (int32_t token : window)
      if (token < 0 || token >= vocab)
        throw Error("token " + std::to_string(token) + " is outside the vocabulary of " + std::to_string(vocab),
                    text.name, "the tokenizer does not belong to the model: use --tokenizer");
}

}  // namespace

double log_sum_exp(std::span<const float> x) {
  return softmax_sums(x).log_z();
}

double kl_divergence(std::span<const float> base_logits, std::span<const float> logits) {
  const SoftmaxSums p = softmax_sums(base_logits), q = softmax_sums(logits);
  // KL = sum_i p_i (log p_i - log q_i) = sum_i p_i (x_i - y_i) + log Zq - log Zp
  double mean_gap = 0;
  for (size_t i = 0; i < logits.size(); ++i)
    mean_gap += static_cast<double>(std::exp(base_logits[i] - p.max)) *
                (static_cast<double>(base_logits[i]) - static_cast<double>(logits[i]));
  const double kl = mean_gap / p.sum + q.log_z() - p.log_z();
  return kl < 0 ? 0 : kl;  // below by rounding; NaN stays NaN
}

FidelityScores score_fidelity(Executor& base, std::span<Executor* const> candidates, const EvalText& text,
                              const std::function<void(int64_t)>& on_tokens) {
  const int64_t vocab = base.table().shape.vocab;
  check_comparable(vocab, candidates, text);
  FidelityScores scores;
  scores.candidates.resize(candidates.size());
  StepOutput base_out, out;
  each_chunk(text, [&](const Chunk& chunk) {
    const ChunkScorer scorer(chunk, vocab);
    run_chunk(base, chunk, base_out);
    scorer.score_base(base_out.logits, scores.base);
    on_tokens(chunk.count);
    for (size_t c = 0; c < candidates.size(); ++c) {
      run_chunk(*candidates[c], chunk, out);
      scorer.score(base_out.logits, out.logits, scores.candidates[c]);
      on_tokens(chunk.count);
    }
  });
  return scores;
}

BaseLogits::BaseLogits(Executor& base, const EvalText& text, const std::function<void(int64_t)>& on_tokens)
    : vocab_(base.table().shape.vocab) {
  check_comparable(vocab_, {}, text);
  int64_t tokens = 0;
  for (const auto& window : text.windows) tokens += static_cast<int64_t>(window.size());
  const double bytes = 4.0 * static_cast<double>(tokens) * static_cast<double>(vocab_);
  if (bytes > 0.5 * static_cast<double>(physical_memory_bytes()))
    throw Error(fmt::format("the base's logits of {} tokens take {:.1f} GB, more than half of this machine's memory",
                            tokens, bytes * 1e-9),
                text.name, "take fewer windows", ExitCode::cannot_here);
  StepOutput out;
  each_chunk(text, [&](const Chunk& chunk) {
    run_chunk(base, chunk, out);
    ChunkScorer(chunk, vocab_).score_base(out.logits, scores_);
    chunks_.push_back(out.logits);
    on_tokens(chunk.count);
  });
}

FidelityScores score_fidelity(const BaseLogits& base, std::span<Executor* const> candidates, const EvalText& text,
                              const std::function<void(int64_t)>& on_tokens) {
  check_comparable(base.vocab(), candidates, text);
  FidelityScores scores;
  scores.base = base.scores();
  scores.candidates.resize(candidates.size());
  StepOutput out;
  size_t index = 0;
  each_chunk(text, [&](const Chunk& chunk) {
    const ChunkScorer scorer(chunk, base.vocab());
    const std::vector<float>& logits = base.chunks().at(index++);
    for (size_t c = 0; c < candidates.size(); ++c) {
      run_chunk(*candidates[c], chunk, out);
      scorer.score(logits, out.logits, scores.candidates[c]);
      on_tokens(chunk.count);
    }
  });
  return scores;
}

namespace {

void check_finite(const std::vector<double>& scores, const std::string& whose) {
  const auto broken = std::count_if(scores.begin(), scores.end(), [](double v) { return !std::isfinite(v); });
  if (broken > 0)
    throw Error("the logits of the " + whose + " are not finite (NaN or infinity) at " + std::to_string(broken) +
                    " of " + std::to_string(scores.size()) + " tokens",
                "", "its weights or scales are broken, or its activations leave the range of FP16");
}

}  // namespace

FidelityResult summarize(const TokenScores& base, const TokenScores& candidate, int64_t windows,
                         const BootstrapOptions& options) {
  check_finite(base.nll, "base");
  check_finite(candidate.nll, "model");
  check_finite(candidate.kld, "model");
  const std::vector<std::vector<double>> columns{base.nll, candidate.nll, candidate.kld, candidate.top1};
  const auto interval = [&](const std::function<double(std::span<const double>)>& statistic) {
    return block_bootstrap(columns, statistic, options);
  };
  FidelityResult r;
  r.base_ppl = interval([](auto m) { return std::exp(m[0]); });
  r.ppl = interval([](auto m) { return std::exp(m[1]); });
  r.ppl_ratio = interval([](auto m) { return std::exp(m[1] - m[0]); });
  r.kld_mean = interval([](auto m) { return m[2]; });
  r.top1 = interval([](auto m) { return m[3]; });
  r.windows = windows;
  r.tokens = static_cast<int64_t>(base.nll.size());
  return r;
}

}  // namespace qg
