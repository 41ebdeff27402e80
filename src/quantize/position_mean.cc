#include "quantize/position_mean.h"

#include <algorithm>
#include <cmath>

namespace qg {
namespace {

using Complex = std::complex<double>;

// Mean of exp(i angle move) over moves 0 to span - 1.
Complex mean_phase(double angle, int64_t span) {
  const double half = angle / 2, below = std::sin(half), count = static_cast<double>(span);
  if (below == 0) return 1;
  return std::polar(std::sin(half * count) / (count * below), half * (count - 1));
}

Complex mean_phase_of_octaves(double angle, int64_t context) {
  Complex sum = 0;
  int count = 0;
  for (int64_t span = 1; span <= std::max<int64_t>(context, 1); span *= 2, ++count) sum += mean_phase(angle, span);
  return sum / static_cast<double>(count);
}

}  // namespace

PositionMean::PositionMean(const std::vector<double>& frequencies, int64_t context)
    : half_(static_cast<int64_t>(frequencies.size())),
      single_(frequencies.size()),
      difference_(frequencies.size() * frequencies.size()),
      sum_(difference_.size()) {
  for (int64_t i = 0; i < half_; ++i) {
    const double f = frequencies[static_cast<size_t>(i)];
    single_[static_cast<size_t>(i)] = mean_phase_of_octaves(f, context);
    for (int64_t j = 0; j < half_; ++j) {
      const double g = frequencies[static_cast<size_t>(j)];
      at(difference_, i, j) = mean_phase_of_octaves(f - g, context);
      at(sum_, i, j) = mean_phase_of_octaves(f + g, context);
    }
  }
}

Complex& PositionMean::at(std::vector<Complex>& table, int64_t i, int64_t j) const {
  return table[static_cast<size_t>(i * half_ + j)];
}
Complex PositionMean::at(const std::vector<Complex>& table, int64_t i, int64_t j) const {
  return table[static_cast<size_t>(i * half_ + j)];
}

std::vector<double> PositionMean::of_sum(const std::vector<double>& x) const {
  std::vector<double> out(x.size());
  for (size_t i = 0; i < single_.size(); ++i) {
    const Complex turned = Complex(x[i], x[i + single_.size()]) * single_[i];
    out[i] = turned.real();
    out[i + single_.size()] = turned.imag();
  }
  return out;
}

// With z_i = x_i + i x_(i + half), a turn multiplies z_i conj(z_j) by exp(i (f_i - f_j) move) and z_i z_j by
// exp(i (f_i + f_j) move); the four products of real elements are sums of the real and imaginary parts of those two.
SmallMatrix PositionMean::of_moment(const SmallMatrix& a) const {
  SmallMatrix out(a.n);
  for (int64_t i = 0; i < half_; ++i)
    for (int64_t j = 0; j < half_; ++j) {
      const int64_t p = i + half_, q = j + half_;
      const Complex conjugated = Complex(a(i, j) + a(p, q), a(p, j) - a(i, q)) * at(difference_, i, j);
      const Complex plain = Complex(a(i, j) - a(p, q), a(p, j) + a(i, q)) * at(sum_, i, j);
      out(i, j) = (conjugated.real() + plain.real()) / 2;
      out(p, q) = (conjugated.real() - plain.real()) / 2;
      out(p, j) = (plain.imag() + conjugated.imag()) / 2;
      out(i, q) = (plain.imag() - conjugated.imag()) / 2;
    }
  return out;
}

}  // namespace qg
