#include "quantize/small_matrix.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "core/error.h"

extern "C" void dsyev_(const char* jobz, const char* uplo, const int* n, double* a, const int* lda, double* w,
                       double* work, const int* lwork, int* info);

namespace qg {
namespace {

void swap_rows(SmallMatrix& a, int64_t r, int64_t s) {
  for (int64_t c = 0; c < a.n; ++c) std::swap(a(r, c), a(s, c));
}

void swap_columns(SmallMatrix& a, int64_t c, int64_t d) {
  for (int64_t r = 0; r < a.n; ++r) std::swap(a(r, c), a(r, d));
}

// Columns (first, first + 1) of a times [[c, -s], [s, c]].
void turn_columns(SmallMatrix& a, int64_t first, double c, double s) {
  for (int64_t r = 0; r < a.n; ++r) {
    const double x = a(r, first), y = a(r, first + 1);
    a(r, first) = c * x + s * y;
    a(r, first + 1) = c * y - s * x;
  }
}

}  // namespace

double SmallMatrix::mean_diagonal() const {
  double sum = 0;
  for (int64_t i = 0; i < n; ++i) sum += (*this)(i, i);
  return n > 0 ? sum / static_cast<double>(n) : 0;
}

void SmallMatrix::add_to_diagonal(double value) {
  for (int64_t i = 0; i < n; ++i) (*this)(i, i) += value;
}

SmallMatrix operator*(const SmallMatrix& a, const SmallMatrix& b) {
  SmallMatrix out(a.n);
  for (int64_t r = 0; r < a.n; ++r)
    for (int64_t k = 0; k < a.n; ++k)
      for (int64_t c = 0; c < a.n; ++c) out(r, c) += a(r, k) * b(k, c);
  return out;
}

SmallMatrix transposed(const SmallMatrix& a) {
  SmallMatrix out(a.n);
  for (int64_t r = 0; r < a.n; ++r)
    for (int64_t c = 0; c < a.n; ++c) out(c, r) = a(r, c);
  return out;
}

SmallMatrix cholesky(const SmallMatrix& a) {
  SmallMatrix l(a.n);
  for (int64_t r = 0; r < a.n; ++r) {
    for (int64_t c = 0; c <= r; ++c) {
      double sum = a(r, c);
      for (int64_t k = 0; k < c; ++k) sum -= l(r, k) * l(c, k);
      if (c < r) {
        l(r, c) = sum / l(c, c);
      } else {
        if (!(sum > 0)) return SmallMatrix();
        l(r, r) = std::sqrt(sum);
      }
    }
  }
  return l;
}

SmallMatrix inverse(const SmallMatrix& a) {
  SmallMatrix left = a, out(a.n);
  out.add_to_diagonal(1);
  for (int64_t k = 0; k < a.n; ++k) {
    int64_t pivot = k;
    for (int64_t r = k + 1; r < a.n; ++r)
      if (std::fabs(left(r, k)) > std::fabs(left(pivot, k))) pivot = r;
    if (!(std::fabs(left(pivot, k)) > 0)) throw Error("a calibration matrix is singular");
    swap_rows(left, k, pivot);
    swap_rows(out, k, pivot);
    const double factor = 1 / left(k, k);
    for (int64_t c = 0; c < a.n; ++c) {
      left(k, c) *= factor;
      out(k, c) *= factor;
    }
    for (int64_t r = 0; r < a.n; ++r) {
      const double f = left(r, k);
      if (r == k || f == 0) continue;
      for (int64_t c = 0; c < a.n; ++c) {
        left(r, c) -= f * left(k, c);
        out(r, c) -= f * out(k, c);
      }
    }
  }
  return out;
}

Eigen eigen_of_symmetric(const SmallMatrix& a) {
  Eigen eigen{std::vector<double>(static_cast<size_t>(a.n)), a};
  const int n = static_cast<int>(a.n), lwork = 32 * n;
  std::vector<double> work(static_cast<size_t>(lwork));
  int info = 0;
  dsyev_("V", "L", &n, eigen.vectors.values.data(), &n, eigen.values.data(), work.data(), &lwork, &info);
  if (info != 0) throw Error("the eigenvalues of a calibration matrix were not found");
  eigen.vectors = transposed(eigen.vectors);  // LAPACK's columns are our rows
  return eigen;
}

SmallMatrix equal_diagonal_rotation(const std::vector<double>& squares) {
  const int64_t n = static_cast<int64_t>(squares.size());
  double log_sum = 0;
  for (const double square : squares) log_sum += 0.5 * std::log(square);
  const double mean = std::exp(log_sum / static_cast<double>(n));
  // Row-rotated R = Q^T diag P stays upper triangular; step k turns its k-th diagonal element into the mean.
  SmallMatrix r(n), p(n);
  p.add_to_diagonal(1);
  for (int64_t i = 0; i < n; ++i) r(i, i) = std::sqrt(squares[static_cast<size_t>(i)]);
  for (int64_t k = 0; k + 1 < n; ++k) {
    // The partner is on the other side of the mean.
    int64_t partner = k + 1;
    for (int64_t i = k + 2; i < n; ++i)
      if (r(k, k) >= mean ? r(i, i) < r(partner, partner) : r(i, i) > r(partner, partner)) partner = i;
    if (partner != k + 1) {
      swap_columns(r, k + 1, partner);
      swap_rows(r, k + 1, partner);
      swap_columns(p, k + 1, partner);
    }
    const double a = r(k, k), b = r(k + 1, k + 1);
    double c = 1, s = 0;
    if (std::fabs(a - b) > 1e-12 * mean) {
      const double c2 = std::clamp((mean * mean - b * b) / (a * a - b * b), 0.0, 1.0);
      c = std::sqrt(c2);
      s = std::sqrt(1 - c2);
    }
    turn_columns(r, k, c, s);
    turn_columns(p, k, c, s);
    const double length = std::hypot(c * a, s * b);  // the mean, up to rounding
    for (int64_t column = k; column < n; ++column) {
      const double x = r(k, column), y = r(k + 1, column);
      r(k, column) = (c * a * x + s * b * y) / length;
      r(k + 1, column) = (c * a * y - s * b * x) / length;
    }
  }
  // R^T R = P^T diag P with R upper; in reverse order of columns the factor on the left is upper.
  for (int64_t i = 0; i < n / 2; ++i) swap_columns(p, i, n - 1 - i);
  return p;
}

}  // namespace qg
