#pragma once
// One layer of the 16-bit model over the whole calibration set on a GPU, chunk by chunk, and what is learned on the
// way: statistics of the four activations that linear layers read, and of what the KV cache would hold. The residual
// stream of all tokens stays on the card.
#include <memory>
#include <vector>

#include "kernels/attention/cuda.h"
#include "quantize/calibration.h"
#include "quantize/cuda_group.h"
#include "quantize/cuda_kv.h"
#include "quantize/cuda_layer_stream.h"
#include "quantize/cuda_phases.h"
#include "quantize/gpu_budget.h"

namespace qg {

enum class TappedInput { attention_in, attention_out, mlp_in, mlp_act };
inline constexpr int kTappedInputs = 4;

struct CudaPassOptions {
  bool statistics = true;  // of the linear layers' inputs
  bool gram = true;
};

class CudaCalibrationPass {
 public:
  // Takes its device memory now; the first layer's input comes from `base`'s embedding. All arguments outlive it.
  CudaCalibrationPass(const Checkpoint& base, const CalibrationText& text, const CalibrationOptions& options,
                      const GpuBudget& budget, const DeviceCapabilities& device, CublasLt& blas, const CudaQueue& queue,
                      const CudaPassOptions& pass);
  ~CudaCalibrationPass();

  // kv: null = only the residual stream moves on. Waits for the device.
  void run_layer(const CudaStoredLayer& layer, CudaKvCollector* kv, CudaPhases& phases);
  CudaActivation activation(TappedInput input) const;  // of the layer that ran last

 private:
  struct Chunk;
  struct Sums;
  void make_chunks(const CalibrationText& text, const GpuBudget& budget);
  void embed(const Checkpoint& base, const CalibrationText& text);
  void begin_statistics();
  void run_chunk(const Chunk& chunk, const CudaStoredLayer& layer, CudaKvCollector* kv, CudaPhases& phases);
  void learn(const Chunk& chunk, TappedInput input, const __half* x, CudaPhases& phases);
  void norm(const Chunk& chunk, const float* weight, const __half* delta);
  void attend(const Chunk& chunk, CudaKvCollector* kv, CudaPhases& phases);
  void multiply(const CudaStoredLinear& linear, int64_t rows, const __half* x, __half* y);

  ModelShape shape_;
  CublasLt& blas_;
  CudaQueue queue_;
  CudaPassOptions options_;
  int64_t rows_ = 0, max_rows_ = 0;
  std::vector<std::unique_ptr<Chunk>> chunks_;
  std::vector<Sums> sums_;  // one a tapped input
  std::unique_ptr<CudaAttention> attention_;
  KvLayout kv_layout_;
  DeviceBuffer residual_;  // float [rows, hidden]
  DeviceBuffer input_;     // half [max_rows, widest]
  DeviceBuffer qkv_, q_, keys_, projected_, gate_up_, pool_;
  DeviceBuffer rope_table_, sample_list_, column_scratch_;
  std::vector<int64_t> sampled_;
};

}  // namespace qg
