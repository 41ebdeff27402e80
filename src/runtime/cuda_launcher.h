#pragma once
// Sends steps to a GPU: as a captured graph where one serves, kernel by kernel otherwise.
#include <map>
#include <set>
#include <span>
#include <string>
#include <tuple>
#include <vector>

#include "runtime/cuda_forward.h"
#include "runtime/cuda_sampled.h"
#include "runtime/executor.h"
#include "runtime/step_plan.h"

namespace qg {

// A step, or with ExecutorOptions::deterministic one piece of it.
struct StepLaunch {
  const CudaStepBatch& batch;                    // filled and on its way
  int slot;                                      // of SampledTokens; one slot has one batch
  std::span<const SequencePiece* const> pieces;  // in the order of their rows
  const PlannedStep& planned;
  LogitsWanted logits;
  const Tap& tap;  // may be empty
};

class CudaLauncher {
 public:
  // What `forward` and `sampled` refer to outlives the launcher.
  CudaLauncher(const CudaForward& forward, const CudaQueue& queue, SampledTokens& sampled, int64_t max_rows);
  ~CudaLauncher();
  CudaLauncher(const CudaLauncher&) = delete;
  CudaLauncher& operator=(const CudaLauncher&) = delete;

  // Returns when everything is on the stream; where logits are wanted or a tap looks on, when it is done. Logits wanted
  // are appended.
  void run(const StepLaunch& step, std::vector<float>& logits);
  const std::set<std::string>& kernels() const { return ran_; }

 private:
  void launch_directly(const StepLaunch& step, std::vector<float>& logits);
  void launch_graph(const StepLaunch& step);
  void layers_and_sampling(const StepLaunch& step);
  void append_logits(int64_t count, std::vector<float>& logits);

  CudaForward forward_;
  CudaQueue queue_;
  SampledTokens& sampled_;
  DeviceBuffer row_numbers_;  // int32: 0, 1, ...
  PinnedBuffer logits_;
  std::map<std::tuple<int64_t, int64_t, bool, int>, cudaGraphExec_t> graphs_;  // by rows, context, draws, slot
  std::set<std::string> ran_;
};

}  // namespace qg
