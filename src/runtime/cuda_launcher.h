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

// Layers of all graphs that are kept. A layer takes about 20 KB of the card's memory (by peak_gpu_bytes of runs with
// many graphs and with few, results/h100-speed.jsonl), which comes out of what the budget leaves free.
inline constexpr int64_t kMostGraphLayers = 16384;

class CudaLauncher {
 public:
  // What `forward` and `sampled` refer to outlives the launcher.
  // most_graphs: kept at a time, those that were used last; 0: as many as have kMostGraphLayers.
  CudaLauncher(const CudaForward& forward, const CudaQueue& queue, SampledTokens& sampled, int64_t max_rows,
               int64_t most_graphs);
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
  void say_no_graph(const StepShape& shape);
  void drop_oldest_graph();
  void layers_and_sampling(const StepLaunch& step);
  void append_logits(int64_t count, std::vector<float>& logits);

  CudaForward forward_;
  CudaQueue queue_;
  SampledTokens& sampled_;
  DeviceBuffer row_numbers_;  // int32: 0, 1, ...
  PinnedBuffer logits_;
  struct Graph {
    cudaGraphExec_t executable = nullptr;  // null: there was no memory for it
    int64_t used = 0;                      // launch number, of the last
  };
  std::map<std::tuple<int64_t, int64_t, bool, int>, Graph> graphs_;  // by rows, context, draws, slot
  size_t most_graphs_;
  int64_t launches_ = 0;
  bool said_no_graph_ = false;
  std::set<std::string> ran_;
};

}  // namespace qg
