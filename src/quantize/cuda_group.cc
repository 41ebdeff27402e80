#include "quantize/cuda_group.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"
#include "quantize/cuda_group_state.h"
#include "quantize/input_check.h"

namespace qg {
namespace {

size_t times(int64_t count, size_t size) {
  return static_cast<size_t>(count) * size;
}

}  // namespace

CudaGroupQuantizer::State::State(const GroupSizes& sizes, CublasLt& lt, const CudaQueue& q,
                                 std::function<NewTensor(DType, Shape)> alloc)
    : blas(lt),
      queue(q),
      allocate(alloc ? std::move(alloc) : [](DType type, Shape shape) { return new_tensor(type, std::move(shape)); }),
      wide(times(sizes.weights, sizeof(float))),
      half_codes(times(sizes.weights, sizeof(__half))),
      codes(times(sizes.weights, 1)),
      packed(times(sizes.weights / 2, 1)),
      grid_scales(times(sizes.weights / sizes.min_group, sizeof(float))),
      grid_zeros(times(sizes.weights / sizes.min_group, 1)),
      outputs(times(sizes.sampled * sizes.n, sizeof(float))),
      product(times(sizes.sampled * sizes.n, sizeof(float))),
      inputs(times(sizes.sampled * sizes.k, sizeof(__half))),
      input_scales(times(std::max(sizes.sampled, int64_t{1}), sizeof(float))),
      row_amax(times(sizes.n, sizeof(float))),
      row_scales(times(sizes.n, sizeof(float))),
      errors(times(sizes.n * kFp8Steps, sizeof(double))),
      columns(times(kColumnVectors * sizes.k, sizeof(float))),
      fold_scratch(times(16 * sizes.k, sizeof(double))),
      fold(times(sizes.k, sizeof(double))),
      order(times(sizes.k, sizeof(int32_t))),
      sums(times(kMostTrials + 1, sizeof(double))),
      error_scratch(static_cast<size_t>(square_error_scratch_bytes())),
      failed(sizeof(int32_t)) {
  if (!sizes.feedback) return;
  working = DeviceBuffer(times(sizes.weights, sizeof(float)));
  gaps = DeviceBuffer(times(sizes.n * kFeedbackBlock, sizeof(float)));
  factor = DeviceBuffer(times(sizes.k * sizes.k, sizeof(float)));
  factor_scratch = DeviceBuffer(static_cast<size_t>(factor_scratch_bytes(sizes.k)));
}

void CudaGroupQuantizer::State::begin(const CudaGroupProblem& problem) {
  p = &problem;
  widen(queue, problem.weight, problem.weight_type, problem.n * problem.k, wide.as<float>());
  abs_sum = read(problem.input.abs_sum, problem.k);
  absmax = read(problem.input.absmax, problem.k);
  check_finite_sums(abs_sum, problem.name, "; activations beyond 65504 need --executor cpu");
  multiply(problem.input.sample, problem.half_weight, outputs.as<float>());
  square_error(queue, nullptr, outputs.as<float>(), nullptr, nullptr, 1, problem.input.sampled, problem.n,
               sums.as<double>() + kMostTrials, error_scratch.data());
  norm = read(sums.as<double>() + kMostTrials, 1)[0];
}

void CudaGroupQuantizer::State::multiply(const __half* x, const __half* w, float* y) {
  GemmShape shape;
  shape.y_type = DType::f32;
  shape.m = p->input.sampled;
  shape.n = shape.y_pitch = p->n;
  shape.k = shape.weight_pitch = p->k;
  GemmPointers pointers;
  pointers.x = x;
  pointers.weight = w;
  pointers.y = y;
  blas.run(shape, pointers, queue.stream);
}

void CudaGroupQuantizer::State::measure(const __half* x, const float* x_scales, const __half* w, const float* w_scales,
                                        float scale, bool differences, double* sum) {
  multiply(x, w, product.as<float>());
  square_error(queue, differences ? nullptr : outputs.as<float>(), product.as<float>(), x_scales, w_scales, scale,
               p->input.sampled, p->n, sum, error_scratch.data());
}

std::vector<double> CudaGroupQuantizer::State::read_errors(int64_t count) const {
  std::vector<double> values = read(sums.as<double>(), count);
  if (norm > 0)
    for (double& v : values) v /= norm;
  return values;
}

void CudaGroupQuantizer::State::upload(const void* from, size_t bytes, void* to) const {
  QG_CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, queue.stream));
  QG_CUDA(cudaStreamSynchronize(queue.stream));  // `from` may go away
}

void CudaGroupQuantizer::State::round(const Recipe& recipe, const CodeScales& scales, const float* up,
                                      const std::vector<float>& down) {
  const auto start = std::chrono::steady_clock::now();
  if (!recipe.error_feedback) {
    round_to_nearest(queue, wide.as<float>(), up, scales, p->n, p->k, codes.as<uint8_t>());
  } else {
    factorize_gram(recipe.damp, down);
    FeedbackParams params;
    params.w = wide.as<float>();
    params.up = up;
    params.factor = factor.as<float>();
    params.order = order.as<int32_t>();
    params.n = p->n;
    params.k = p->k;
    params.scales = scales;
    params.working = working.as<float>();
    params.gaps = gaps.as<float>();
    params.codes = codes.as<uint8_t>();
    qg::round_with_feedback(queue, blas, params);
  }
  QG_CUDA(cudaStreamSynchronize(queue.stream));
  rounding_seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

// What FeedbackFactor's constructor does; down: empty or the factors by which the inputs are scaled.
void CudaGroupQuantizer::State::factorize_gram(double damp, const std::vector<float>& down) {
  const int64_t k = p->k;
  gram_diagonal(queue, p->input.gram, k, column(kDiagonal));
  std::vector<float> diagonal = read(column(kDiagonal), k);
  double trace = 0;
  for (size_t i = 0; i < diagonal.size(); ++i) {
    if (!std::isfinite(diagonal[i]))
      throw Error("the calibration activations are too large for a Gram matrix in float", "", "use --executor cpu");
    if (!down.empty()) diagonal[i] *= down[i] * down[i];
    diagonal[i] = std::max(diagonal[i], 0.0f);
    trace += static_cast<double>(diagonal[i]);
  }
  const double mean = trace > 0 ? trace / static_cast<double>(k) : 1.0;
  for (float& d : diagonal)
    if (d == 0) d = static_cast<float>(mean);
  std::vector<int32_t> by_importance(static_cast<size_t>(k));
  std::iota(by_importance.begin(), by_importance.end(), 0);
  std::stable_sort(by_importance.begin(), by_importance.end(), [&](int32_t a, int32_t b) {
    return diagonal[static_cast<size_t>(a)] > diagonal[static_cast<size_t>(b)];
  });
  upload(by_importance.data(), by_importance.size() * sizeof(int32_t), order.data());
  if (!down.empty()) upload(down.data(), down.size() * sizeof(float), column(kFactor));
  std::vector<float> damped(static_cast<size_t>(k));
  for (double tried = damp; tried < 10; tried *= 10) {
    for (size_t i = 0; i < damped.size(); ++i)
      damped[i] = diagonal[static_cast<size_t>(by_importance[i])] + static_cast<float>(tried * mean);
    upload(damped.data(), damped.size() * sizeof(float), column(kDiagonal));
    QG_CUDA(cudaMemsetAsync(failed.data(), 0, sizeof(int32_t), queue.stream));
    arrange_gram(queue, p->input.gram, order.as<int32_t>(), down.empty() ? nullptr : column(kFactor), column(kDiagonal),
                 k, factor.as<float>());
    factorize(queue, blas, k, factor.as<float>(), factor_scratch.data(), failed.as<int32_t>());
    if (read(failed.as<int32_t>(), 1)[0] == 0) return;
  }
  throw Error("the calibration activations have no usable Gram matrix", "", "use more or other calibration text");
}

std::vector<NewTensor> CudaGroupQuantizer::State::download(DType type, const void* from, int64_t row_elements) const {
  std::vector<NewTensor> parts;
  const auto* at = static_cast<const std::byte*>(from);
  for (const int64_t rows : p->rows) {
    NewTensor part = allocate(type, {rows, row_elements});
    QG_CUDA(cudaMemcpyAsync(part.data, at, part.tensor.bytes(), cudaMemcpyDeviceToHost, queue.stream));
    at += part.tensor.bytes();
    parts.push_back(std::move(part));
  }
  return parts;
}

CudaGroupQuantizer::CudaGroupQuantizer(const GroupSizes& sizes, CublasLt& blas, const CudaQueue& queue,
                                       std::function<NewTensor(DType, Shape)> allocate)
    : state_(std::make_unique<State>(sizes, blas, queue, std::move(allocate))) {}
CudaGroupQuantizer::~CudaGroupQuantizer() = default;

double CudaGroupQuantizer::rounding_seconds() const {
  return state_->rounding_seconds;
}

CudaGroupQuantizer::Feedback CudaGroupQuantizer::last_feedback() const {
  return {state_->order.as<int32_t>(), state_->factor.as<float>()};
}

GroupResult CudaGroupQuantizer::quantize(const CudaGroupProblem& problem, const Recipe& recipe, const QuantSpec& spec) {
  state_->begin(problem);
  GroupResult result = recipe.weights == WeightFormat::fp8       ? state_->fp8(recipe, spec)
                       : recipe.weights == WeightFormat::int8_sq ? state_->int8(recipe, spec)
                                                                 : state_->int4(recipe, spec);
  QG_CUDA(cudaStreamSynchronize(state_->queue.stream));
  return result;
}

}  // namespace qg
