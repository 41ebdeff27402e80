#include "runtime/flight.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"

namespace qg {
namespace {

constexpr int32_t kNotKnown = -1;  // stands for a token that a step under way will sample

}  // namespace

void Flight::prepare(const std::vector<PlannedPiece>& planned, int64_t page_tokens) {
  planned_ = planned;
  tokens_.clear();
  pieces_.clear();
  logits_ = LogitsWanted::none;
  for (const PlannedPiece& plan : planned_) {
    const Sequence& sequence = *plan.sequence;
    const int64_t end = plan.begin + plan.num_tokens;
    SequencePiece& piece = pieces_.emplace_back();
    piece.first_row = static_cast<int64_t>(tokens_.size());
    piece.num_tokens = plan.num_tokens;
    piece.context_tokens = plan.begin;
    piece.pages = std::span<const int32_t>(sequence.pages).first((end + page_tokens - 1) / page_tokens);
    piece.sample = plan.sample;
    piece.output_position = sequence.generated_tokens() + sequence.awaited_tokens;
    piece.sampling = sequence.request.sampling;
    if (plan.begin < sequence.num_tokens()) {
      tokens_.insert(tokens_.end(), sequence.tokens.begin() + plan.begin, sequence.tokens.begin() + end);
    } else {
      piece.token_of_piece = sequence.last_piece;
      tokens_.push_back(kNotKnown);
    }
    logits_ = std::max(logits_, sequence.request.logits);  // none < sampled < all
  }
}

void Flight::check_output(const std::string& executor, int64_t vocab) const {
  const auto wrong = [&](const std::string& what) {
    throw Error("internal error: " + what, "executor " + executor, "please report this");
  };
  if (output.sampled.size() != pieces_.size())
    wrong(fmt::format("{} tokens for {} pieces", output.sampled.size(), pieces_.size()));
  int64_t rows = 0;
  for (size_t i = 0; i < pieces_.size(); ++i) {
    const int32_t token = output.sampled[i];
    if (pieces_[i].sample && token != kNotFinite && (token < 0 || token >= vocab))
      wrong(fmt::format("sampled token {} of {}", token, vocab));
    rows += logits_ == LogitsWanted::all ? pieces_[i].num_tokens : pieces_[i].sample;
  }
  if (logits_ != LogitsWanted::none && static_cast<int64_t>(output.logits.size()) != rows * vocab)
    wrong(fmt::format("{} logits for {} rows of {}", output.logits.size(), rows, vocab));
}

}  // namespace qg
