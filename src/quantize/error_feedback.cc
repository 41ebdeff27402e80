#include "quantize/error_feedback.h"

#include <algorithm>
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

// gram's rows and columns in the order given, without a second matrix: the rows along the cycles of the permutation,
// then each row's columns through a buffer.
void permute(std::vector<float>& gram, int64_t k, const std::vector<int64_t>& order) {
  const auto row = [&](int64_t r) { return gram.data() + r * k; };
  std::vector<float> buffer(static_cast<size_t>(k));
  std::vector<bool> placed(static_cast<size_t>(k));
  for (int64_t start = 0; start < k; ++start) {
    if (placed[static_cast<size_t>(start)]) continue;
    std::copy_n(row(start), k, buffer.data());
    int64_t to = start;
    for (int64_t from = order[static_cast<size_t>(to)]; from != start; from = order[static_cast<size_t>(to)]) {
      std::copy_n(row(from), k, row(to));
      placed[static_cast<size_t>(to)] = true;
      to = from;
    }
    std::copy_n(buffer.data(), k, row(to));
    placed[static_cast<size_t>(to)] = true;
  }
  for (int64_t r = 0; r < k; ++r) {
    std::copy_n(row(r), k, buffer.data());
    for (int64_t c = 0; c < k; ++c) row(r)[c] = buffer[static_cast<size_t>(order[static_cast<size_t>(c)])];
  }
}

// gram: permuted. Returns whether it could be factorized with `added` on its diagonal; u becomes the factor.
bool factor_in_double(const std::vector<float>& gram, int64_t k, double added, std::vector<float>& u) {
  std::vector<double> a(gram.begin(), gram.end());
  for (int64_t i = 0; i < k; ++i) a[static_cast<size_t>(i * k + i)] += added;
  if (!upper_factor_of_inverse(a.data(), k)) return false;
  u.assign(a.begin(), a.end());
  return true;
}

// The same in place, for matrices too wide to have twice: gram becomes the factor, or is as it was.
bool factor_in_place(std::vector<float>& gram, int64_t k, double added) {
  std::vector<float> diagonal(static_cast<size_t>(k));
  for (int64_t i = 0; i < k; ++i) {
    float& value = gram[static_cast<size_t>(i * k + i)];
    diagonal[static_cast<size_t>(i)] = value;
    value += static_cast<float>(added);
  }
  if (upper_factor_of_inverse(gram.data(), k)) return true;
  // Only the upper triangle and the diagonal were written.
  for (int64_t r = 0; r < k; ++r) {
    gram[static_cast<size_t>(r * k + r)] = diagonal[static_cast<size_t>(r)];
    for (int64_t c = r + 1; c < k; ++c) gram[static_cast<size_t>(r * k + c)] = gram[static_cast<size_t>(c * k + r)];
  }
  return false;
}

}  // namespace

FeedbackFactor::FeedbackFactor(std::vector<float> gram, int64_t k, double damp, bool by_importance,
                               int64_t widest_in_double)
    : k_(k) {
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
  permute(gram, k, order_);
  for (double tried = damp; tried < 10; tried *= 10) {
    if (k <= widest_in_double) {
      if (factor_in_double(gram, k, tried * mean, u_)) return;
    } else if (factor_in_place(gram, k, tried * mean)) {
      u_ = std::move(gram);
      return;
    }
  }
  throw Error("the calibration activations have no usable Gram matrix", "", "use more or other calibration text");
}

}  // namespace qg
