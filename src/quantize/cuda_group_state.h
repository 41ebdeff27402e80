#pragma once
// Inside of CudaGroupQuantizer: scratch memory, and the steps that the three methods share.
#include <chrono>

#include "kernels/quantize/cuda_feedback.h"
#include "kernels/quantize/cuda_rounding.h"
#include "kernels/quantize/cuda_statistics.h"
#include "quantize/cuda_group.h"

namespace qg {

inline constexpr int kMostTrials = 32;  // of one search
// Vectors of k floats. kDown, kUp: what inputs and weights are multiplied by.
enum ColumnVector { kDown, kUp, kImportance, kMoments, kDiagonal, kFactor, kColumnVectors };

struct CudaGroupQuantizer::State {
  State(const GroupSizes& sizes, CublasLt& blas, const CudaQueue& queue,
        std::function<NewTensor(DType, Shape)> allocate);

  // Widens the weights, computes the sample's outputs and their norm, reads the activation's sums.
  void begin(const CudaGroupProblem& problem);
  GroupResult fp8(const Recipe& recipe, const QuantSpec& spec);
  GroupResult int8(const Recipe& recipe, const QuantSpec& spec);
  GroupResult int4(const Recipe& recipe, const QuantSpec& spec);

  void multiply(const __half* x, const __half* w, float* y);  // y [sampled, n] = x [sampled, k] w [n, k]^T
  // *sum = |outputs - (x w^T) scaled|^2 on the sample; differences: w holds what is lost, and outputs are left out.
  void measure(const __half* x, const float* x_scales, const __half* w, const float* w_scales, float scale,
               bool differences, double* sum);
  std::vector<double> read_errors(int64_t count) const;  // of `sums`, relative to the outputs' norm
  // Codes of w * up, with error feedback or to nearest.
  void round(const Recipe& recipe, const CodeScales& scales, const float* up, const std::vector<float>& down);
  void factorize_gram(double damp, const std::vector<float>& down);
  // A device matrix [n, row_elements], cut into the group's linear layers. Not waited for.
  std::vector<NewTensor> download(DType type, const void* from, int64_t row_elements) const;

  void upload(const void* from, size_t bytes, void* to) const;
  template <class T>
  std::vector<T> read(const T* from, int64_t count) const {
    std::vector<T> values(static_cast<size_t>(count));
    QG_CUDA(cudaMemcpyAsync(values.data(), from, values.size() * sizeof(T), cudaMemcpyDeviceToHost, queue.stream));
    QG_CUDA(cudaStreamSynchronize(queue.stream));
    return values;
  }
  float* column(int which) const { return columns.as<float>() + which * p->k; }

  CublasLt& blas;
  CudaQueue queue;
  std::function<NewTensor(DType, Shape)> allocate;
  DeviceBuffer wide;        // float [n, k]
  DeviceBuffer half_codes;  // [n, k]: a trial's codes, or what it loses
  DeviceBuffer codes;       // [n, k]
  DeviceBuffer packed, grid_scales, grid_zeros;
  DeviceBuffer outputs, product;                       // float [sampled, n]
  DeviceBuffer inputs, input_scales;                   // half [sampled, k], float [sampled]
  DeviceBuffer row_amax, row_scales;                   // float [n]
  DeviceBuffer errors;                                 // double [n, kFp8Steps]
  DeviceBuffer columns;                                // float [kColumnVectors, k]
  DeviceBuffer fold_scratch, fold;                     // double
  DeviceBuffer order;                                  // int32 [k]
  DeviceBuffer sums, error_scratch;                    // double
  DeviceBuffer failed;                                 // int32
  DeviceBuffer working, gaps, factor, factor_scratch;  // of error feedback
  const CudaGroupProblem* p = nullptr;
  std::vector<double> abs_sum;  // [k]
  std::vector<float> absmax;    // [k]
  double norm = 0;
  double rounding_seconds = 0;
};

}  // namespace qg
