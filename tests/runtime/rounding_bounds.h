#pragma once
// How far two programs may be apart before a rounding to 8 bits, when both read the same codes in every linear layer so
// far: the CPU executor, which keeps floats, and one that keeps halves (the GPU's). What is derived here is a variance
// for every value, carried from one rounding to the next; the tolerance is six standard deviations.
//
// Where the differences come from. u = 2^-11: a value rounded to half is off by at most u |y|, evenly: variance
// (u y)^2 / 3. Sums of int8 products are exact. Sums of fp8 products lose what linear_case.h says of Hopper's tensor
// cores: 32 products and the sum so far are cut towards zero, to c = 2^-13 of the power of two below the largest of
// them; the sum lies on that grid already. So each product loses evenly up to c l, l: the largest magnitude near it.
// That is a variance c^2 l^2 / 3 each, l^2 counted at 0.54 (the mean square of a power of two below x is 0.54 x^2); and
// a shift of c l / 2 times as many as there are more products of one sign than of the other. Both are added up over
// kParts parts of k; the shift, which is known as well as l, counts as a deviation. Operations in float: 2^-18 of a
// value in all.
#include <cmath>
#include <map>
#include <vector>

#include "core/parallel.h"
#include "kernels/pointwise/run.h"
#include "runtime/cpu_forward.h"
#include "runtime/cpu_layer.h"

namespace qg::test {

inline constexpr double kDeviations = 6;
inline constexpr double kHalfStep = 1.0 / 2048, kFp8Cut = 1.0 / 8192, kFloatSlack = 1.0 / (1 << 18);

inline double square(double x) {
  return x * x;
}
inline double half_variance(double x) {
  return square(kHalfStep * x) / 3 + square(std::ldexp(1.0, -25));
}

// Values of some rows, and the variance of the difference between both programs.
struct Uncertain {
  int64_t rows = 0, width = 0;
  std::vector<float> values;
  std::vector<double> variance;
  size_t at(int64_t row, int64_t column) const { return static_cast<size_t>(row * width + column); }
};

inline void for_rows(int64_t rows, const std::function<void(int64_t row)>& fn) {
  parallel_for(rows, 4, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) fn(row);
  });
}

// Of fp8 products: the variance of their sums, [m, n].
inline std::vector<double> cut_variance(const std::vector<float>& w, const std::vector<float>& x, int64_t m, int64_t n,
                                        int64_t k) {
  constexpr int64_t kParts = 8;
  std::vector<double> variance(static_cast<size_t>(m * n)), sum(variance), shift(variance);
  using Map = float (*)(float);
  const Map maps[] = {[](float v) { return v; }, [](float v) { return v * v; },
                      [](float v) { return static_cast<float>((v > 0) - (v < 0)); }};
  std::vector<float> sums[3];  // over a part: of the products, their squares and their signs
  for (int64_t p = 0; p < kParts; ++p) {
    const int64_t begin = k * p / kParts, count = k * (p + 1) / kParts - begin;
    const auto columns = [&](const std::vector<float>& from, int64_t rows, Map map) {
      std::vector<float> to(static_cast<size_t>(rows * count));
      for_rows(rows, [&](int64_t row) {
        for (int64_t c = 0; c < count; ++c)
          to[static_cast<size_t>(row * count + c)] = map(from[static_cast<size_t>(row * k + begin + c)]);
      });
      return to;
    };
    for (size_t i = 0; i < 3; ++i) {
      CpuLinear plain;
      plain.weights.n = n, plain.weights.k = count;
      plain.weights.weight = tensor_from_f32(columns(w, n, maps[i]), {n, count}, DType::f32);
      sums[i].resize(variance.size());
      plain.run(columns(x, m, maps[i]).data(), m, sums[i].data());
    }
    for_rows(m, [&](int64_t row) {
      for (auto i = static_cast<size_t>(row * n); i < static_cast<size_t>((row + 1) * n); ++i) {
        const double before = sum[i];
        sum[i] += static_cast<double>(sums[0][i]);
        const double largest2 = std::max(square(before), square(sum[i])) + static_cast<double>(sums[1][i]);
        variance[i] += square(kFp8Cut) * 0.54 * largest2 * (static_cast<double>(count) + 1) / 3;
        shift[i] += kFp8Cut / 2 * std::sqrt(largest2) * static_cast<double>(sums[2][i]);
      }
    });
  }
  for (size_t i = 0; i < variance.size(); ++i) variance[i] += square(shift[i]);
  return variance;
}

// What a linear layer makes of an input that both programs read alike. values: to the bit what the executor gets.
inline Uncertain linear_output(const CpuLinear& linear, const RoundedInput& in) {
  const int64_t m = in.m, n = linear.weights.n, k = in.k;
  Uncertain out{m, n, std::vector<float>(static_cast<size_t>(m * n)), {}};
  linear.run(in.x, m, out.values.data(), [&](const RoundedInput& own) {
    std::copy_n(in.codes, m * in.stride, own.codes);
    std::copy_n(in.scales, m, own.scales);
  });
  out.variance.assign(out.values.size(), 0);
  if (linear.weights.format == WeightFormat::fp8) {
    std::vector<float> x(static_cast<size_t>(m * k));
    for (int64_t row = 0; row < m; ++row)
      for (int64_t c = 0; c < k; ++c)
        x[static_cast<size_t>(row * k + c)] = in.codes[row * in.stride + c] * in.scales[row];
    out.variance = cut_variance(linear.dequantized(), x, m, n, k);
  }
  for (size_t i = 0; i < out.values.size(); ++i) {
    const double y = static_cast<double>(out.values[i]);
    out.variance[i] += half_variance(y) + square(std::ldexp(y, -21));
  }
  return out;
}

class RoundingBounds {
 public:
  RoundingBounds(const ModelShape& shape) : shape_(shape) {}

  // A step of one sequence, rows after `context` tokens that earlier steps had.
  void start(const std::vector<float>& embedding, int64_t rows, int64_t context) {
    residual_ = {rows, shape_.hidden, embedding, {}};
    residual_.variance.assign(embedding.size(), square(std::ldexp(1.0, -25)));  // BF16 that becomes half
    context_ = context;
    if (context == 0) caches_.clear();
    std::vector<int64_t> positions;
    for (int64_t i = 0; i < rows; ++i) positions.push_back(context + i);
    rope_ = make_rope_table(rope_frequencies(shape_), positions);
  }

  void add_to_residual(const Uncertain& y) {
    for (size_t i = 0; i < y.values.size(); ++i) {
      residual_.values[i] += y.values[i];
      residual_.variance[i] += y.variance[i] + square(std::ldexp(static_cast<double>(residual_.values[i]), -23)) / 3;
    }
  }
  const Uncertain& residual() const { return residual_; }

  // Of RMSNorm's output times prequant scales (null: ones), values [rows, hidden]: the residual's own difference, and
  // that of the row's norm.
  std::vector<double> norm(const std::vector<float>& values, const std::vector<float>& weight,
                           const float* prequant) const {
    std::vector<double> tolerance(values.size());
    const double width = static_cast<double>(shape_.hidden);
    for_rows(residual_.rows, [&](int64_t row) {
      double squares = 0, moved = 0;
      for (size_t i = residual_.at(row, 0); i < residual_.at(row + 1, 0); ++i) {
        const double r2 = square(static_cast<double>(residual_.values[i]));
        squares += r2;
        moved += r2 * residual_.variance[i];
      }
      const double of_norm = kDeviations * std::sqrt(moved) / std::max(squares, 1e-30) + kFloatSlack;
      const double factor = 1 / std::sqrt(squares / width + shape_.norm_epsilon);
      for (size_t c = 0; c < weight.size(); ++c) {
        const size_t i = residual_.at(row, 0) + c;
        const double slope = factor * std::fabs(static_cast<double>(weight[c]) * (prequant ? prequant[c] : 1.0f));
        tolerance[i] = kDeviations * slope * std::sqrt(residual_.variance[i]) +
                       of_norm * std::fabs(static_cast<double>(values[i]));
      }
    });
    return tolerance;
  }

  // Of silu(gate) * up, [rows, ffn].
  static std::vector<double> gate(const Uncertain& gate, const Uncertain& up) {
    std::vector<double> tolerance(gate.values.size());
    for_rows(gate.rows, [&](int64_t row) {
      for (size_t i = gate.at(row, 0); i < gate.at(row + 1, 0); ++i) {
        const double g = static_cast<double>(gate.values[i]), u = static_cast<double>(up.values[i]);
        const double sigmoid = 1 / (1 + std::exp(-g)), silu = g * sigmoid, slope = sigmoid * (1 + g * (1 - sigmoid));
        const double off_g = kDeviations * std::sqrt(gate.variance[i]), off_u = kDeviations * std::sqrt(up.variance[i]);
        // First order as independent, second order (silu's second derivative is at most 1/2) at its worst.
        tolerance[i] = std::hypot(slope * off_g * u, silu * off_u) + 1.1 * off_g * off_u +
                       0.25 * off_g * off_g * std::fabs(u) + kFloatSlack * std::fabs(silu * u);
      }
    });
    return tolerance;
  }

  // Of attention, [rows, q_rows]. qkv: the linear layer's output, before RoPE, of this layer and step; earlier steps of
  // the sequence must have come here too.
  //
  // A score s_j moves by the query's difference, which is the same for all tokens, and by its key's. The result
  // o = sum w_j v_j moves by sum w_j (dv_j + (ds_j - ds) (v_j - o)) for any ds; here the query's with the mean key.
  // Deviations of what is shared add up, those of different tokens add in squares. So do attention's own roundings
  // (attention_step.h): of weights to half, u rms(o) / sqrt(3), and of the result.
  std::vector<double> attention(int layer, const Uncertain& qkv) {
    const Uncertain q = append(layer, qkv);
    std::vector<double> tolerance(static_cast<size_t>(q.rows * shape_.q_rows()));
    for_rows(q.rows, [&](int64_t row) {
      for (int64_t head = 0; head < shape_.heads; ++head)
        attention_head(caches_.at(layer), q, row, head, tolerance.data() + q.at(row, head * shape_.head_dim));
    });
    return tolerance;
  }

 private:
  struct Cache {
    std::vector<float> k, v;  // [tokens, kv_rows]
    std::vector<double> k_variance, v_variance;
  };

  void attention_head(const Cache& cache, const Uncertain& q, int64_t row, int64_t head, double* tolerance) const {
    const size_t d = static_cast<size_t>(shape_.head_dim), tokens = static_cast<size_t>(context_ + row + 1);
    const size_t q0 = q.at(row, head * shape_.head_dim), stride = static_cast<size_t>(shape_.kv_rows());
    const size_t first = static_cast<size_t>(head / (shape_.heads / shape_.kv_heads)) * d;
    const double scale = attention_score_scale(shape_);
    std::vector<double> weight(tokens), mean_k(d), o(d), shared(d), apart(d);
    double largest = -1e300, total = 0, mean_off = 0, squares = 0;
    for (size_t j = 0; j < tokens; ++j) {
      double score = 0;
      for (size_t c = 0; c < d; ++c)
        score += static_cast<double>(q.values[q0 + c]) * static_cast<double>(cache.k[j * stride + first + c]);
      weight[j] = scale * score;
      largest = std::max(largest, weight[j]);
    }
    for (double& w : weight) total += w = std::exp(w - largest);
    for (size_t j = 0; j < tokens; ++j) {
      weight[j] /= total;
      for (size_t c = 0; c < d; ++c) {
        mean_k[c] += weight[j] * static_cast<double>(cache.k[j * stride + first + c]);
        o[c] += weight[j] * static_cast<double>(cache.v[j * stride + first + c]);
      }
    }
    for (size_t j = 0; j < tokens; ++j) {
      const size_t at = j * stride + first;
      double by_query = 0, by_key = 0;  // variances of the score
      for (size_t c = 0; c < d; ++c) {
        by_query += q.variance[q0 + c] * square(static_cast<double>(cache.k[at + c]) - mean_k[c]);
        by_key += cache.k_variance[at + c] * square(static_cast<double>(q.values[q0 + c]));
      }
      by_query = scale * std::sqrt(by_query), by_key *= square(scale);
      mean_off += weight[j] * (by_query + std::sqrt(by_key));
      for (size_t c = 0; c < d; ++c) {
        const double from_mean = static_cast<double>(cache.v[at + c]) - o[c];
        shared[c] += weight[j] * by_query * std::fabs(from_mean);
        apart[c] += square(weight[j]) * (cache.v_variance[at + c] + by_key * square(from_mean));
      }
    }
    for (const double x : o) squares += x * x / static_cast<double>(d);
    const double second_order = std::exp(kDeviations * mean_off);
    for (size_t c = 0; c < d; ++c) {
      const double own = square(kHalfStep) * (squares + o[c] * o[c]) / 3;
      tolerance[c] =
          kDeviations * second_order * (shared[c] + std::sqrt(apart[c] + own)) + kFloatSlack * std::fabs(o[c]);
    }
  }

  // RoPE; keys and values, which both programs store as halves, to the layer's cache. Returns the queries.
  Uncertain append(int layer, const Uncertain& qkv) {
    const int64_t stride = shape_.qkv_rows(), d = shape_.head_dim, half = d / 2;
    Uncertain x = qkv;
    rope(rope_, x.values.data(), stride, x.rows, shape_.heads + shape_.kv_heads, d);
    for_rows(x.rows, [&](int64_t row) {
      for (int64_t head = 0; head < shape_.heads + shape_.kv_heads; ++head)
        for (int64_t i = 0; i < half; ++i) {
          const size_t first = x.at(row, head * d + i), second = first + static_cast<size_t>(half);
          const auto angle = static_cast<size_t>(row * half + i);
          const double c2 = square(static_cast<double>(rope_.cosine[angle])), s2 = 1 - c2;
          const double a = x.variance[first], b = x.variance[second];
          x.variance[first] = c2 * a + s2 * b + half_variance(static_cast<double>(x.values[first]));
          x.variance[second] = c2 * b + s2 * a + half_variance(static_cast<double>(x.values[second]));
        }
    });
    Cache& cache = caches_[layer];
    Uncertain q{x.rows, shape_.q_rows(), {}, {}};
    for (int64_t row = 0; row < x.rows; ++row)
      for (int64_t c = 0; c < stride; ++c) {
        const size_t i = x.at(row, c);
        const float value = x.values[i];
        if (c < shape_.q_rows()) {
          q.values.push_back(value);
          q.variance.push_back(x.variance[i]);
        } else {
          const bool key = c < shape_.q_rows() + shape_.kv_rows();
          (key ? cache.k : cache.v).push_back(value);
          (key ? cache.k_variance : cache.v_variance)
              .push_back(x.variance[i] + half_variance(static_cast<double>(value)));
        }
      }
    return q;
  }

  const ModelShape& shape_;
  Uncertain residual_;
  int64_t context_ = 0;
  RopeTable rope_;
  std::map<int, Cache> caches_;
};

}  // namespace qg::test
