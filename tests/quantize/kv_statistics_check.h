#pragma once
// What calibration learns of keys and queries (KeyStatistics), in double, each sum with a bound of what an
// implementation in float may miss it by. u = 2^-24, gamma_m = m u / (1 - m u) for a sum of m terms in any order
// (Higham, 3.1), first order in u; docs/kv-cache-notes.md has the formulas.
//
// Of one query with probabilities p_j, values a_j = v_j L as the layer's output sees them, o = sum p_j a_j:
//  - a score is a product of D terms, so it misses by gamma_(D+2) sum |q| |k_j| / sqrt(D) =: S_j; a probability then by
//    r p_j, r = 2 max S + gamma_(rows + 8);
//  - |a_j - o|^2, computed as |a_j|^2 + |o|^2 - 2 a_j o, misses by gamma_(2 D + rows + 16) (A_j + B)^2 where A_j is the
//    size of |v_j| |L| and B = sum p_j A_j; by gamma_hidden (sum sqrt(G_ii) |x_i|)^2, x = v_j - sum p v, because L
//    comes from sums G in float; and by 2 |a_j - o| r B because o has p's error;
//  - cost_j = p_j^2 |a_j - o|^2 misses by 2 r of itself and p_j^2 times that.
// Weights are sums of costs, or roots of such (whose relative error is half); what is summed with them misses by their
// errors and gamma of its own terms.
#include <cmath>
#include <numeric>
#include <vector>

#include "quantize/kv_shaping.h"
#include "tests/quantize/feedback_check.h"

namespace qg::testing {

struct Bounded {
  double value = 0, bound = 0;
  void add(double v, double b) {
    value += v;
    bound += b;
  }
};

struct KeyTruth {
  explicit KeyTruth(int64_t d)
      : query_gram(static_cast<size_t>(d * d)),
        key_moment(query_gram.size()),
        key_sum(static_cast<size_t>(d)),
        plain_sum(key_sum.size()) {}
  std::vector<Bounded> query_gram, key_moment, key_sum, plain_sum;
  Bounded key_weight;
};

// attention_output [hidden, q_rows]; qkv [rows, qkv_rows] after RoPE, sequences of `lengths` one after the other.
inline std::vector<KeyTruth> key_truth(const ModelShape& s, const std::vector<float>& attention_output,
                                       const std::vector<float>& qkv, const std::vector<int64_t>& lengths) {
  const int64_t d = s.head_dim;
  const auto wide = [](float x) { return static_cast<double>(x); };
  std::vector<KeyTruth> truth(static_cast<size_t>(s.kv_heads), KeyTruth(d));
  std::vector<std::vector<float>> factors;
  std::vector<SmallMatrix> grams;
  for (int64_t h = 0; h < s.heads; ++h) {
    SmallMatrix gram(d);
    for (int64_t r = 0; r < s.hidden; ++r)
      for (int64_t i = 0; i < d; ++i)
        for (int64_t j = 0; j < d; ++j)
          gram(i, j) += wide(attention_output[static_cast<size_t>(r * s.q_rows() + h * d + i)]) *
                        wide(attention_output[static_cast<size_t>(r * s.q_rows() + h * d + j)]);
    factors.push_back(output_factor(gram));
    grams.push_back(gram);
  }
  parallel_for(s.kv_heads, 1, [&](int64_t first_head, int64_t) {
    KeyTruth& out = truth[static_cast<size_t>(first_head)];
    const float* sequence = qkv.data();
    for (const int64_t rows : lengths) {
      const auto at = [&](int64_t r, int64_t column) { return wide(sequence[r * s.qkv_rows() + column]); };
      const int64_t k0 = s.q_rows() + first_head * d, v0 = k0 + s.kv_rows();
      std::vector<Bounded> columns(static_cast<size_t>(rows));
      const int64_t step = std::max<int64_t>(1, rows / kSampledQueries), queries = (rows + step - 1) / step;
      for (int64_t h = first_head * s.group(); h < (first_head + 1) * s.group(); ++h) {
        std::vector<double> a(static_cast<size_t>(rows * d)), sizes(static_cast<size_t>(rows));
        for (int64_t j = 0; j < rows; ++j) {
          double square = 0;
          for (int64_t c = 0; c < d; ++c) {
            double sum = 0, absolute = 0;
            for (int64_t i = c; i < d; ++i) {
              const double term = at(j, v0 + i) * wide(factors[static_cast<size_t>(h)][static_cast<size_t>(i * d + c)]);
              sum += term;
              absolute += std::fabs(term);
            }
            a[static_cast<size_t>(j * d + c)] = sum;
            square += absolute * absolute;
          }
          sizes[static_cast<size_t>(j)] = std::sqrt(square);
        }
        for (int64_t i = 0; i < queries; ++i) {
          const int64_t position = rows - 1 - i * step, end = position + 1;
          const int64_t begin = s.sliding_window ? std::max<int64_t>(0, end - *s.sliding_window) : 0;
          std::vector<double> p(static_cast<size_t>(rows)), o(static_cast<size_t>(d)), plain(o.size());
          double largest = -INFINITY, score_error = 0, total = 0, query_square = 0, size = 0;
          for (int64_t j = begin; j < end; ++j) {
            double sum = 0, absolute = 0;
            for (int64_t c = 0; c < d; ++c) {
              const double term = at(position, h * d + c) * at(j, k0 + c) / std::sqrt(static_cast<double>(d));
              sum += term;
              absolute += std::fabs(term);
            }
            p[static_cast<size_t>(j)] = sum;
            largest = std::max(largest, sum);
            score_error = std::max(score_error, gamma_of(d + 2) * absolute);
          }
          for (int64_t j = begin; j < end; ++j)
            total += p[static_cast<size_t>(j)] = std::exp(p[static_cast<size_t>(j)] - largest);
          for (int64_t j = begin; j < end; ++j) {
            p[static_cast<size_t>(j)] /= total;
            size += p[static_cast<size_t>(j)] * sizes[static_cast<size_t>(j)];
            for (int64_t c = 0; c < d; ++c) {
              o[static_cast<size_t>(c)] += p[static_cast<size_t>(j)] * a[static_cast<size_t>(j * d + c)];
              plain[static_cast<size_t>(c)] += p[static_cast<size_t>(j)] * at(j, v0 + c);
            }
          }
          for (int64_t c = 0; c < d; ++c) query_square += at(position, h * d + c) * at(position, h * d + c);
          const double r = 2 * score_error + gamma_of(rows + 8);
          Bounded weight;
          for (int64_t j = begin; j < end; ++j) {
            double distance = 0, from_gram = 0;
            for (int64_t c = 0; c < d; ++c) {
              distance += std::pow(a[static_cast<size_t>(j * d + c)] - o[static_cast<size_t>(c)], 2);
              from_gram += std::sqrt(grams[static_cast<size_t>(h)](c, c)) *
                           std::fabs(at(j, v0 + c) - plain[static_cast<size_t>(c)]);
            }
            const double miss = gamma_of(2 * d + rows + 16) * std::pow(sizes[static_cast<size_t>(j)] + size, 2) +
                                gamma_of(s.hidden) * from_gram * from_gram + 2 * std::sqrt(distance) * r * size +
                                r * size * r * size;
            const double square = p[static_cast<size_t>(j)] * p[static_cast<size_t>(j)];
            const double cost = square * distance, bound = 2 * r * cost + square * miss;
            weight.add(cost, bound);
            columns[static_cast<size_t>(j)].add(cost * query_square, bound * query_square);
          }
          weight.bound += gamma_of(rows + 2 * queries + 8) * weight.value;
          for (int64_t x = 0; x < d; ++x)
            for (int64_t y = 0; y < d; ++y) {
              const double product = at(position, h * d + x) * at(position, h * d + y);
              out.query_gram[static_cast<size_t>(x * d + y)].add(weight.value * product,
                                                                 weight.bound * std::fabs(product));
            }
        }
      }
      const double own = gamma_of(s.group() * queries + d + rows + 16);
      for (int64_t j = 0; j < rows; ++j) {
        const Bounded& c = columns[static_cast<size_t>(j)];
        // A root: half the relative error, and no more than the root of the bound where that is all there is.
        const double w = std::sqrt(c.value);
        const double bound = (w > 0 ? std::min(c.bound / w, std::sqrt(c.bound)) : std::sqrt(c.bound)) + own * w;
        out.key_weight.add(w, bound);
        for (int64_t x = 0; x < d; ++x) {
          const double k = at(j, k0 + x);
          out.key_sum[static_cast<size_t>(x)].add(w * k, bound * std::fabs(k));
          out.plain_sum[static_cast<size_t>(x)].add(k, static_cast<double>(rows) * 0x1p-52 * std::fabs(k));
          for (int64_t y = 0; y < d; ++y) {
            const double product = k * at(j, k0 + y);
            out.key_moment[static_cast<size_t>(x * d + y)].add(w * product, bound * std::fabs(product));
          }
        }
      }
      sequence += rows * s.qkv_rows();
    }
  });
  return truth;
}

// The greatest miss in units of its bound, of all sums: a right implementation gives at most 1.
inline double statistics_gap(const std::vector<KeyStatistics>& heads, const std::vector<KeyTruth>& truth) {
  if (heads.size() != truth.size()) return INFINITY;
  double gap = 0;
  const auto see = [&](double found, const Bounded& wanted) {
    const double part = std::fabs(found - wanted.value) / std::max(wanted.bound, 1e-300);
    gap = std::isfinite(part) ? std::max(gap, part) : INFINITY;
  };
  for (size_t h = 0; h < heads.size(); ++h) {
    for (size_t i = 0; i < truth[h].query_gram.size(); ++i) {
      see(heads[h].query_gram.values[i], truth[h].query_gram[i]);
      see(heads[h].key_moment.values[i], truth[h].key_moment[i]);
    }
    for (size_t i = 0; i < truth[h].key_sum.size(); ++i) {
      see(heads[h].key_sum[i], truth[h].key_sum[i]);
      see(heads[h].plain_sum[i], truth[h].plain_sum[i]);
    }
    see(heads[h].key_weight, truth[h].key_weight);
  }
  return gap;
}

}  // namespace qg::testing
