#pragma once
// Which executor: the one choice that every verb makes.
#include <memory>
#include <string>

#include "checkpoint/checkpoint.h"
#include "runtime/cuda_executor.h"
#include "runtime/executor.h"

namespace qg {

bool has_cuda_executor();  // in this build

// name: "cpu" or "cuda". Throws Error (exit code 4) when this build has no such executor or the machine no such card.
std::unique_ptr<Executor> make_executor(const std::string& name, std::shared_ptr<const Checkpoint> checkpoint,
                                        const ExecutorOptions& options, const CudaExecutorOptions& cuda = {});

// Tokens a page that suit an executor: large ones suit a GPU's copies, small ones waste less.
int64_t default_page_tokens(const std::string& name);

}  // namespace qg
