#pragma once
// The fake executor running ahead. A submitted step is computed as late as possible, when it is collected, or, now and
// then, as early as possible; so nothing may lean on either. It refuses what a step under way forbids: a third step, a
// page that the other step uses and the new one writes, a token of a piece that samples nothing.
#include <algorithm>
#include <deque>
#include <exception>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tests/runtime/fake_executor.h"

namespace qg {

class AheadExecutor : public FakeExecutor {
 public:
  explicit AheadExecutor(FakeOptions options, uint64_t early_seed = 0) : FakeExecutor(options), early_(early_seed) {}

  bool runs_ahead() const override { return ahead; }

  void submit(const StepInput& input) override {
    ++submitted;
    if (submitted == fail_at_submit) {
      ++refused;
      throw std::runtime_error("the fake executor refuses as it was told to");
    }
    require(under_way_.size() < (ahead ? 2 : 1), "more steps under way than allowed");
    for (const Held& other : under_way_) check_pages(input, other);
    under_way_.emplace_back(input);
    log += "s" + std::to_string(submitted) + " ";
    most_under_way = std::max(most_under_way, under_way_.size());
    if (early_.next_below(3) == 0)
      for (Held& held : under_way_) compute(held);
  }

  void collect(StepOutput& output) override {
    require(!under_way_.empty(), "nothing to collect");
    Held held = std::move(under_way_.front());
    under_way_.pop_front();
    log += "c" + std::to_string(++collected) + " ";
    compute(held);
    if (held.error) std::rethrow_exception(held.error);
    output = std::move(*held.output);
  }

  bool ahead = true;
  int64_t submitted = 0, refused = 0, collected = 0, fail_at_submit = -1;
  size_t most_under_way = 0;
  std::string log;  // "s1 s2 c1 ": what was submitted and collected, in order

 private:
  struct Held {
    explicit Held(const StepInput& input)
        : tokens(input.tokens.begin(), input.tokens.end()),
          pieces(input.pieces.begin(), input.pieces.end()),
          logits(input.logits) {
      for (SequencePiece& piece : pieces) {
        pages.emplace_back(piece.pages.begin(), piece.pages.end());
        piece.pages = pages.back();
      }
    }
    std::vector<int32_t> tokens;
    std::vector<SequencePiece> pieces;
    std::deque<std::vector<int32_t>> pages;
    LogitsWanted logits;
    std::optional<StepOutput> output;
    std::exception_ptr error;
  };

  // What fails comes out of collect(), whenever it was computed.
  void compute(Held& held) {
    if (held.output || held.error) return;
    try {
      compute_now(held);
    } catch (...) {
      held.error = std::current_exception();
    }
  }

  void compute_now(Held& held) {
    for (const SequencePiece& piece : held.pieces) {
      if (piece.token_of_piece < 0) continue;
      require(piece.num_tokens == 1, "an unknown token in a piece of several");
      require(piece.token_of_piece < static_cast<int64_t>(sampled_.size()), "no such piece in the step before");
      const int32_t token = sampled_[static_cast<size_t>(piece.token_of_piece)];
      require(token >= 0 || token == kNotFinite, "the token of a piece that samples nothing");
      held.tokens[static_cast<size_t>(piece.first_row)] = std::max(token, 0);  // any will do where none was sampled
    }
    sampled_.clear();
    StepOutput output;
    step({held.tokens, held.pieces, held.logits}, output);
    sampled_ = output.sampled;
    held.output = std::move(output);
  }

  // The new step may write a page that the step under way uses only where it goes on with the same sequence.
  void check_pages(const StepInput& input, const Held& other) const {
    for (const SequencePiece& piece : input.pieces) {
      const int64_t first_written = piece.context_tokens / fake_options().page_tokens;
      for (const SequencePiece& used : other.pieces) {
        const bool goes_on = used.context_tokens + used.num_tokens == piece.context_tokens &&
                             std::equal(used.pages.begin(), used.pages.end(), piece.pages.begin(),
                                        piece.pages.begin() + std::min(used.pages.size(), piece.pages.size()));
        if (goes_on) continue;
        for (size_t p = static_cast<size_t>(first_written); p < piece.pages.size(); ++p)
          require(std::find(used.pages.begin(), used.pages.end(), piece.pages[p]) == used.pages.end(),
                  "a page is written that a step under way uses");
      }
    }
  }

  Rng early_;
  std::deque<Held> under_way_;
  std::vector<int32_t> sampled_;  // by the step that was computed last
};

}  // namespace qg
