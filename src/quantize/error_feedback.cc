#include "quantize/error_feedback.h"

#include <cmath>
#include <numeric>

#include "core/error.h"

// LAPACK's Fortran entry points, which OpenBLAS carries; Debian has no LAPACKE header beside it.
extern "C" {
void dpotrf_(const char* uplo, const int* n, double* a, const int* lda, int* info);
void dpotri_(const char* uplo, const int* n, double* a, const int* lda, int* info);
void spotrf_(const char* uplo, const int* n, float* a, const int* lda, int* info);
void spotri_(const char* uplo, const int* n, float* a, const int* lda, int* info);
}

namespace qg {
namespace {

// A double matrix of this width takes 512 MB; wider ones are factorized in float, in place.
constexpr int64_t kDoubleWidth = 8192;

void potrf(char uplo, int n, double* a, int* info) {
  dpotrf_(&uplo, &n, a, &n, info);
}
void potri(char uplo, int n, double* a, int* info) {
  dpotri_(&uplo, &n, a, &n, info);
}
void potrf(char uplo, int n, float* a, int* info) {
  spotrf_(&uplo, &n, a, &n, info);
}
void potri(char uplo, int n, float* a, int* info) {
  spotri_(&uplo, &n, a, &n, info);
}

// a: symmetric positive definite [k, k]; becomes the upper factor U of its inverse, inverse = U^T U (row-major), with
// zeros below the diagonal. Returns false when a is not positive definite. LAPACK is column-major: its lower triangle
// is our upper one.
template <class T>
bool upper_factor_of_inverse(T* a, int64_t k) {
  int info = 0;
  const int n = static_cast<int>(k);
  potrf('L', n, a, &info);
  if (info != 0) return false;
  potri('L', n, a, &info);
  if (info != 0) return false;
  // The upper triangle (row-major) now holds the inverse. Row-major U with inverse = U^T U is column-major L = U^T with
  // inverse = L L^T: a lower factorization in place.
  potrf('L', n, a, &info);
  if (info != 0) return false;
  for (int64_t r = 0; r < k; ++r)
    for (int64_t c = 0; c < r; ++c) a[r * k + c] = 0;
  return true;
}

template <class T>
std::vector<float> factor(const std::vector<float>& gram, int64_t k, double added, const std::vector<int64_t>& order,
                          bool& ok) {
  std::vector<T> a(gram.size());
  for (int64_t r = 0; r < k; ++r)
    for (int64_t c = 0; c < k; ++c)
      a[static_cast<size_t>(r * k + c)] =
          static_cast<T>(gram[static_cast<size_t>(order[static_cast<size_t>(r)] * k + order[static_cast<size_t>(c)])]);
  for (int64_t i = 0; i < k; ++i) a[static_cast<size_t>(i * k + i)] += static_cast<T>(added);
  ok = upper_factor_of_inverse(a.data(), k);
  if constexpr (std::is_same_v<T, float>)
    return a;
  else
    return std::vector<float>(a.begin(), a.end());
}

}  // namespace

FeedbackFactor::FeedbackFactor(std::vector<float> gram, int64_t k, double damp, bool by_importance) : k_(k) {
  if (!std::all_of(gram.begin(), gram.end(), [](float v) { return std::isfinite(v); }))
    throw Error("the calibration activations hold NaN or infinity", "",
                "check the model with `quantgrid inspect` and the calibration text");
  double trace = 0;
  for (int64_t i = 0; i < k; ++i) {
    float& diagonal = gram[static_cast<size_t>(i * k + i)];
    diagonal = std::max(diagonal, 0.0f);
    trace += static_cast<double>(diagonal);
  }
  const double mean = trace > 0 ? trace / static_cast<double>(k) : 1.0;
  // A channel that was never active says nothing about its weights: any positive diagonal rounds them to nearest.
  for (int64_t i = 0; i < k; ++i)
    if (gram[static_cast<size_t>(i * k + i)] == 0) gram[static_cast<size_t>(i * k + i)] = static_cast<float>(mean);

  order_.resize(static_cast<size_t>(k));
  std::iota(order_.begin(), order_.end(), 0);
  if (by_importance)
    std::stable_sort(order_.begin(), order_.end(), [&](int64_t a, int64_t b) {
      return gram[static_cast<size_t>(a * k + a)] > gram[static_cast<size_t>(b * k + b)];
    });
  for (double tried = damp; tried < 10; tried *= 10) {
    bool ok = false;
    u_ = k <= kDoubleWidth ? factor<double>(gram, k, tried * mean, order_, ok)
                           : factor<float>(gram, k, tried * mean, order_, ok);
    if (ok) return;
  }
  throw Error("the calibration activations have no usable Gram matrix", "", "use more or other calibration text");
}

}  // namespace qg
