#pragma once
// The linear layers that read one activation, quantized on a GPU: what quantize_group (group.h) does, on device memory.
// Scales, exponents and codes are the CPU's up to the order of float sums; where error feedback carries such a
// difference on, later codes of that row may differ while the layer's error stays the same.
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/common/cuda_cublaslt.h"
#include "kernels/quantize/cuda_statistics.h"
#include "quantize/gpu_budget.h"
#include "quantize/group.h"

namespace qg {

// ActivationStatistics on the device.
struct CudaActivation {
  int64_t k = 0, rows = 0, sampled = 0;
  const float* absmax = nullptr;    // [k]
  const double* abs_sum = nullptr;  // [k]
  const __half* sample = nullptr;   // [sampled, k]
  const float* gram = nullptr;      // [k, k], lower triangle; null unless error feedback is wanted
};

struct CudaGroupProblem {
  const void* weight = nullptr;  // [n, k] of weight_type: the group's linear layers stacked
  DType weight_type = DType::f16;
  const __half* half_weight = nullptr;  // the same as half
  std::vector<int64_t> rows;            // out features of each, sum = n
  int64_t n = 0, k = 0;
  CudaActivation input;
  bool foldable = false;
  std::vector<int32_t> shared_scales;  // as in GroupProblem
  std::string name;                    // of the input, for errors: "input of layers.3.mlp_act"
};

class CudaGroupQuantizer {
 public:
  // Takes its scratch memory now, for groups within these sizes. allocate: makes the tensors of results (null:
  // new_tensor). blas and queue are used, not owned.
  CudaGroupQuantizer(const GroupSizes& sizes, CublasLt& blas, const CudaQueue& queue,
                     std::function<NewTensor(DType, Shape)> allocate = nullptr);
  ~CudaGroupQuantizer();
  CudaGroupQuantizer(const CudaGroupQuantizer&) = delete;
  CudaGroupQuantizer& operator=(const CudaGroupQuantizer&) = delete;

  // Waits for the device. Throws what quantize_group throws.
  GroupResult quantize(const CudaGroupProblem& problem, const Recipe& recipe, const QuantSpec& spec);
  double rounding_seconds() const;  // of quantize calls so far: factorizing and rounding; the rest is searching

  // By what the last call rounded, if it did so with error feedback; on the device until the next call. For tests.
  struct Feedback {
    const int32_t* order = nullptr;  // [k]: column rounded i-th
    // [k, k] in that order: L_tj / L_tt below the diagonal, and on it L_tt, which factorize leaves there.
    const float* factor = nullptr;
  };
  Feedback last_feedback() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace qg
