#pragma once
// Dense square matrices in double of a head's size (16 to 256): plain loops, a few milliseconds at most.
#include <cstddef>
#include <cstdint>
#include <vector>

namespace qg {

struct SmallMatrix {
  explicit SmallMatrix(int64_t size = 0) : n(size), values(static_cast<size_t>(size * size)) {}
  double& operator()(int64_t row, int64_t column) { return values[static_cast<size_t>(row * n + column)]; }
  double operator()(int64_t row, int64_t column) const { return values[static_cast<size_t>(row * n + column)]; }
  double mean_diagonal() const;
  void add_to_diagonal(double value);

  int64_t n;
  std::vector<double> values;  // row-major
};

SmallMatrix operator*(const SmallMatrix& a, const SmallMatrix& b);
SmallMatrix transposed(const SmallMatrix& a);
// Lower factor L with a = L L^T; an empty matrix when a is not positive definite.
SmallMatrix cholesky(const SmallMatrix& a);
// By elimination with pivots. Throws Error when a is singular.
SmallMatrix inverse(const SmallMatrix& a);

struct Eigen {
  std::vector<double> values;  // ascending
  SmallMatrix vectors;         // column i belongs to values[i]
};
Eigen eigen_of_symmetric(const SmallMatrix& a);

// An orthogonal P such that P^T diag(squares) P = M M^T for an upper triangular M all of whose diagonal elements are
// equal: to the geometric mean of the square roots. squares: positive. After Jiang, Hager and Li, "The geometric mean
// decomposition" (2005), on a diagonal matrix.
SmallMatrix equal_diagonal_rotation(const std::vector<double>& squares);

}  // namespace qg
