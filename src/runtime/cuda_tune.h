#pragma once
// Which algorithms and kernels a model's linear layers take on this card: read from the card's tuning file, and
// measured where that says nothing.
#include "runtime/cuda_executor.h"
#include "runtime/cuda_model.h"
#include "runtime/tuning_file.h"

namespace qg {

class CudaTuning {
 public:
  // Reads the file (CudaExecutorOptions::tuned) into `context`, before layers are made.
  CudaTuning(const CudaExecutorOptions& options, const DeviceCapabilities& device, CudaLinearContext& context);
  // Library products are timed for every bucket of rows that a step may have, and the ways that a layer can go
  // compared. Layers of one shape share what was found. What is new goes to the file.
  void measure(const CudaModel& model, int64_t max_rows, int64_t logit_rows);

 private:
  bool tuned_;
  std::filesystem::path file_;
  TuningIdentity identity_;
  CudaLinearContext& context_;
};

}  // namespace qg
