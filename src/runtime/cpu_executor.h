#pragma once
// The definition of a forward step: every operation is the readable reference in float, on the checkpoint's own bytes.
// A sequence's results do not depend on the batch, on chunking, on reused pages or on the number of threads, to the
// bit.
#include <memory>

#include "checkpoint/checkpoint.h"
#include "runtime/executor.h"
#include "runtime/rounding_judge.h"

namespace qg {

// Weights are held once (views of the file's map where the layout allows). Throws Error when the KV format cannot be
// had: int8 needs calibrated scales; fp8 without them uses scales of 1. judge: see rounding_judge.h; may be empty.
std::unique_ptr<Executor> make_cpu_executor(std::shared_ptr<const Checkpoint> checkpoint,
                                            const ExecutorOptions& options, RoundingJudge judge = {});

}  // namespace qg
