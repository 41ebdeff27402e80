#include "kernels/quantize/cuda_feedback.h"

#include <algorithm>

#include "kernels/quantize/cuda_feedback_kernels.h"

namespace qg {
namespace {

// Only the lower triangle of a symmetric matrix is needed: it is made in strips of columns, each from its diagonal
// block down.
constexpr int64_t kStrip = 2048;

struct Operand {
  const void* data;
  int64_t pitch;
};

// y [rows, columns] = beta * y + alpha * x^T w, sums over `depth` rows of x and w.
void product_over_rows(const CudaQueue& queue, CublasLt& blas, GemmKind kind, Operand x, Operand w, int64_t depth,
                       float alpha, float beta, float* y, int64_t rows, int64_t columns, int64_t y_pitch) {
  GemmShape shape;
  shape.kind = kind;
  shape.y_type = DType::f32;
  shape.m = rows;
  shape.n = columns;
  shape.k = depth;
  shape.weight_pitch = w.pitch;
  shape.x_pitch = x.pitch;
  shape.y_pitch = y_pitch;
  shape.over_rows = true;
  GemmPointers pointers;
  pointers.x = x.data;
  pointers.weight = w.data;
  pointers.y = y;
  pointers.alpha = alpha;
  pointers.beta = beta;
  blas.run(shape, pointers, queue.stream);
}

}  // namespace

void add_gram(const CudaQueue& queue, CublasLt& blas, const __half* x, int64_t rows, int64_t k, bool first,
              float* gram) {
  for (int64_t at = 0; at < k; at += kStrip)
    product_over_rows(queue, blas, GemmKind::f16, {x + at, k}, {x + at, k}, rows, 1.0f, first ? 0.0f : 1.0f,
                      gram + at * k + at, k - at, std::min(kStrip, k - at), k);
}

int64_t factor_scratch_bytes(int64_t k) {
  return kFactorBlock * (kFactorBlock + k) * static_cast<int64_t>(sizeof(float));
}

// From the last block of rows up: L^T L has the last rows of L in full in its last rows.
void factorize(const CudaQueue& queue, CublasLt& blas, int64_t k, float* a, void* scratch, int32_t* failed) {
  float* inverse = static_cast<float*>(scratch);
  float* panel = inverse + kFactorBlock * kFactorBlock;  // [kFactorBlock, k]
  for (int64_t begin = (k - 1) / kFactorBlock * kFactorBlock; begin >= 0; begin -= kFactorBlock) {
    const int64_t size = std::min(kFactorBlock, k - begin);
    float* rows = a + begin * k;
    factor_block(queue, size, k, rows + begin, inverse, failed);
    if (begin == 0) break;
    product_over_rows(queue, blas, GemmKind::f32, {inverse, kFactorBlock}, {rows, k}, size, 1.0f, 0.0f, panel, size,
                      begin, k);
    const size_t pitch = static_cast<size_t>(k) * sizeof(float);
    QG_CUDA(cudaMemcpy2DAsync(rows, pitch, panel, pitch, static_cast<size_t>(begin) * sizeof(float),
                              static_cast<size_t>(size), cudaMemcpyDeviceToDevice, queue.stream));
    for (int64_t at = 0; at < begin; at += kStrip)
      product_over_rows(queue, blas, GemmKind::f32, {rows + at, k}, {rows + at, k}, size, -1.0f, 1.0f, a + at * k + at,
                        begin - at, std::min(kStrip, begin - at), k);
  }
  scale_factor_rows(queue, k, a);
}

void round_with_feedback(const CudaQueue& queue, CublasLt& blas, const FeedbackParams& p) {
  arrange_columns(queue, p);
  for (int64_t begin = 0; begin < p.k; begin += kFeedbackBlock) {
    round_block(queue, p, begin);
    const int64_t next = begin + kFeedbackBlock;
    if (next >= p.k) break;
    GemmShape shape;
    shape.kind = GemmKind::f32;
    shape.y_type = DType::f32;
    shape.m = p.n;
    shape.n = p.k - next;
    shape.k = kFeedbackBlock;
    shape.weight_pitch = shape.y_pitch = p.k;
    GemmPointers pointers;
    pointers.x = p.gaps;
    pointers.weight = p.factor + next * p.k + begin;
    pointers.y = p.working + next;
    pointers.beta = 1;
    blas.run(shape, pointers, queue.stream);
  }
}

}  // namespace qg
