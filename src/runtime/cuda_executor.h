#pragma once
// The forward step on a GPU: fused kernels, graphs for decoding (docs/engine.md). Judged against cpu_executor.
#include <filesystem>
#include <memory>
#include <optional>

#include "checkpoint/checkpoint.h"
#include "kernels/common/device.h"
#include "runtime/executor.h"

namespace qg {

struct CudaExecutorOptions {
  int device = 0;                      // as CUDA numbers them
  std::optional<KernelFamily> family;  // an earlier family than the card's own: run what an earlier card would run
  int64_t memory_bytes = 0;            // use no more of the card than this; 0 = all that is free
  int64_t shared_bytes = 0;            // of a block's shared memory; 0 = what the card has
  bool graphs = true;                  // capture decode steps
  int64_t most_graphs = 0;             // kept at a time; 0: what CudaLauncher thinks right
  DType dtype = DType::f16;            // F16, or BF16 for unquantized checkpoints: what 16-bit layers compute in
  // What is fastest for which layer and number of rows on this card is read from a file, and what is missing there is
  // measured and added. Not with ExecutorOptions::deterministic. Without it the built-in choices stand.
  bool tuned = false;
  std::filesystem::path tuning_file;  // empty: default_tuning_file()
  bool tune_anew = false;             // whatever the file says
};

// Takes all its memory now. num_pages = kv_bytes = 0 gives the KV cache what is left. Throws Error with the budget when
// it does not fit (exit code 4), and what make_cpu_executor throws.
std::unique_ptr<Executor> make_cuda_executor(std::shared_ptr<const Checkpoint> checkpoint,
                                             const ExecutorOptions& options, const CudaExecutorOptions& cuda);

}  // namespace qg
