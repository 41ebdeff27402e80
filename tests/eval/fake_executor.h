#pragma once
#include "core/rng.h"
#include "runtime/executor.h"

namespace qg {

// A model whose logits are a function of (seed, token, position): position comes from context_tokens, so a wrong chunk
// offset changes the scores.
class FakeExecutor : public Executor {
 public:
  FakeExecutor(int64_t vocab, uint64_t seed, double noise, int64_t pages = 64)
      : seed_(seed), noise_(noise), pages_(pages) {
    table_.shape.vocab = vocab;
  }
  const ModelTable& table() const override { return table_; }
  KvFormat kv_format() const override { return KvFormat::fp16; }
  int64_t page_tokens() const override { return 16; }
  int64_t num_pages() const override { return pages_; }
  int64_t max_rows() const override { return 4096; }
  void step(const StepInput& input, StepOutput& output) override {
    output.sampled.assign(input.pieces.size(), -1);
    output.logits.clear();
    for (size_t row = 0; row < input.tokens.size(); ++row)
      for (int64_t v = 0; v < table_.shape.vocab; ++v)
        output.logits.push_back(
            logit(input.tokens[row], input.pieces[0].context_tokens + static_cast<int64_t>(row), v));
  }
  float logit(int32_t token, int64_t position, int64_t v) const {
    const auto counter = static_cast<uint64_t>((position * 1000 + token) * 1000 + v);
    return static_cast<float>(3 * Rng(1).normal(counter) + noise_ * Rng(seed_).normal(counter));
  }
  void copy_page(int32_t, int32_t) override {}
  void set_tap(Tap) override {}
  std::vector<std::string> kernels() const override { return {"fake"}; }
  ComputePath compute_path() const override { return ComputePath::w16a16; }
  int64_t weight_bytes() const override { return 0; }
  int64_t kv_pool_bytes() const override { return 0; }
  std::string name() const override { return "fake"; }

 private:
  ModelTable table_;
  uint64_t seed_;
  double noise_;
  int64_t pages_;
};

}  // namespace qg
