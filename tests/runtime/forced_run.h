#pragma once
// One sequence through another executor and through the CPU's, free-running and with the other's roundings.
#include <numeric>

#include "eval/fidelity.h"
#include "runtime/cpu_executor.h"
#include "tests/runtime/nudged_roundings.h"
#include "tests/runtime/same_roundings.h"

namespace qg::test {

// tokens, in steps of so many tokens each.
struct ForcedText {
  std::vector<int32_t> tokens;
  std::vector<int64_t> steps;
};

// Logits of all tokens [tokens, vocab]. before: called with the number of the step and of the tokens in the cache.
inline std::vector<float> run_steps(Executor& executor, const ForcedText& text,
                                    const std::function<void(size_t step, int64_t context)>& before) {
  const int64_t page = executor.page_tokens(), tokens_in_all = static_cast<int64_t>(text.tokens.size());
  std::vector<int32_t> pages(static_cast<size_t>((tokens_in_all + page - 1) / page));
  std::iota(pages.begin(), pages.end(), 0);
  std::vector<float> logits;
  StepOutput output;
  SequencePiece piece;
  piece.pages = pages;
  for (size_t step = 0; step < text.steps.size(); ++step) {
    piece.num_tokens = text.steps[step];
    if (before) before(step, piece.context_tokens);
    const auto tokens = std::span(text.tokens)
                            .subspan(static_cast<size_t>(piece.context_tokens), static_cast<size_t>(piece.num_tokens));
    executor.step({tokens, {&piece, 1}, LogitsWanted::all}, output);
    logits.insert(logits.end(), output.logits.begin(), output.logits.end());
    piece.context_tokens += piece.num_tokens;
  }
  return logits;
}

struct OtherRun {
  std::vector<OtherTaps> steps;
  std::vector<float> logits;
};

inline bool belongs_to_linear(const std::string& tap) {
  for (const char* name : {"attention_in", "attention_out", "mlp_in", "mlp_act", "qkv", "projected", "gate_up"})
    if (tap.ends_with(name)) return true;
  return false;
}

// An executor whose taps tell what linear layers read, dequantized, and what they wrote: the GPU's.
inline OtherRun run_tapped(Executor& executor, const ForcedText& text) {
  OtherRun run;
  executor.set_tap([&](const std::string& name, std::span<const float> values, int64_t, int64_t) {
    if (belongs_to_linear(name)) run.steps.back()[name].assign(values.begin(), values.end());
  });
  run.logits = run_steps(executor, text, [&](size_t, int64_t) { run.steps.emplace_back(); });
  executor.set_tap({});
  return run;
}

// Over tokens whose next one is known: mean KL(cpu || other), share of the same most likely token, perplexities.
struct LogitDistance {
  double kl = 0, top1 = 0, nll = 0, cpu_nll = 0;  // sums
  int64_t tokens = 0;

  double mean_kl() const { return kl / static_cast<double>(tokens); }
  double mean_top1() const { return top1 / static_cast<double>(tokens); }
  double perplexity_ratio() const { return std::exp((nll - cpu_nll) / static_cast<double>(tokens)); }
  void add(const std::vector<float>& cpu, const std::vector<float>& other, const std::vector<int32_t>& text) {
    const size_t vocab = cpu.size() / text.size();
    std::mutex mutex;
    for_rows(static_cast<int64_t>(text.size()) - 1, [&](int64_t row) {
      const auto at = static_cast<size_t>(row);
      const auto a = std::span(cpu).subspan(at * vocab, vocab), b = std::span(other).subspan(at * vocab, vocab);
      const auto top = [](std::span<const float> x) { return std::max_element(x.begin(), x.end()) - x.begin(); };
      const auto next = static_cast<size_t>(text[at + 1]);
      const double divergence = kl_divergence(a, b);
      const double a_nll = log_sum_exp(a) - static_cast<double>(a[next]);
      const double b_nll = log_sum_exp(b) - static_cast<double>(b[next]);
      const bool same = top(a) == top(b);
      const std::lock_guard lock(mutex);
      kl += divergence, top1 += same ? 1 : 0, cpu_nll += a_nll, nll += b_nll, ++tokens;
    });
  }
};

inline std::string describe(const LogitDistance& d) {
  return fmt::format("KL {:.2e}, top-1 {:.4f}, perplexity {:.5f}", d.mean_kl(), d.mean_top1(), d.perplexity_ratio());
}

struct ForcedResult {
  LogitDistance free, forced;
  LogitDistance itself;                           // the CPU with values nudged by 2^-22, float's last bits, to the CPU
  std::map<std::string, RoundingReport> reports;  // by tap

  RoundingReport total() const {
    RoundingReport sum;
    for (const auto& [tap, report] : reports) sum.add(report);
    return sum;
  }
  std::string line() const {
    return fmt::format("forced: {}; free: {}; the CPU to itself: {}; {}", describe(forced), describe(free),
                       describe(itself), describe(total()));
  }
};

// The CPU's side over one text, and its figures added to `result`. Free-running only where asked.
inline std::vector<float> compare_forced(const std::shared_ptr<const Checkpoint>& checkpoint,
                                         const ExecutorOptions& options, const ForcedText& text, const OtherRun& other,
                                         bool free_too, ForcedResult& result) {
  const ModelShape& shape = checkpoint->table().shape;
  if (free_too) {
    const bool per_token = checkpoint->quant().activations == ActivationScaling::dynamic_token;
    const RoundingJudge nudged = nudged_roundings(std::ldexp(1.0, -22), per_token);
    const std::vector<float> own = run_steps(*make_cpu_executor(checkpoint, options), text, {});
    result.free.add(own, other.logits, text.tokens);
    result.itself.add(own, run_steps(*make_cpu_executor(checkpoint, options, nudged), text, {}), text.tokens);
  }
  std::vector<CpuLayer> layers;
  for (int layer = 0; layer < shape.layers; ++layer) layers.push_back(load_cpu_layer(*checkpoint, layer));
  SameRoundings same(shape, layers);
  const auto cpu = make_cpu_executor(checkpoint, options, same.judge());
  cpu->set_tap(same.tap());
  std::vector<float> logits =
      run_steps(*cpu, text, [&](size_t step, int64_t context) { same.start(other.steps[step], context); });
  result.forced.add(logits, other.logits, text.tokens);
  for (const auto& [tap, report] : same.reports()) result.reports[tap].add(report);
  return logits;
}

}  // namespace qg::test
