#include "runtime/executor.h"

#include <utility>

#include "core/error.h"

namespace qg {

void Executor::submit(const StepInput& input) {
  if (computed_) throw Error("a step is submitted, and the one before was not collected", "executor " + name());
  StepOutput output;
  step(input, output);
  computed_ = std::move(output);
}

void Executor::collect(StepOutput& output) {
  if (!computed_) throw Error("no step was submitted that could be collected", "executor " + name());
  output = std::move(*computed_);
  computed_.reset();
}

}  // namespace qg
