#pragma once
// One step on its way through an executor: what was planned, what the executor is given, what came back.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "runtime/executor.h"
#include "runtime/scheduler.h"

namespace qg {

class Flight {
 public:
  // Takes over a plan. page_tokens: of the KV cache.
  void prepare(const std::vector<PlannedPiece>& planned, int64_t page_tokens);
  // What the executor gets; valid until the scheduler changes a sequence's pages.
  StepInput input() const { return {tokens_, pieces_, logits_}; }
  // Throws Error when `output` is not what the input asked for.
  void check_output(const std::string& executor, int64_t vocab) const;

  const std::vector<PlannedPiece>& planned() const { return planned_; }
  // Of piece i: its row in the step, and how many tokens of the sequence were generated before the one that it samples.
  int64_t first_row(size_t i) const { return pieces_[i].first_row; }
  int64_t output_position(size_t i) const { return pieces_[i].output_position; }
  LogitsWanted logits() const { return logits_; }

  StepOutput output;

 private:
  std::vector<PlannedPiece> planned_;
  std::vector<int32_t> tokens_;
  std::vector<SequencePiece> pieces_;
  LogitsWanted logits_ = LogitsWanted::none;
};

}  // namespace qg
