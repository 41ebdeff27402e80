#include <algorithm>
#include <cfloat>
#include <cmath>

#include "core/float.h"
#include "core/multiversion.h"
#include "core/parallel.h"
#include "kernels/lanes.h"
#include "kernels/pointwise/run.h"

namespace qg {
namespace {

constexpr int64_t kRowsPerPiece = 8;
constexpr double kTwoPi = 6.283185307179586;

// Sum of squares in eight partial sums of double, in a fixed order.
QG_MULTIVERSION double sum_of_squares(const float* x, int64_t width) {
  double partial[8] = {};
  int64_t i = 0;
  for (; i + 8 <= width; i += 8)
    for (int lane = 0; lane < 8; ++lane) partial[lane] += static_cast<double>(x[i + lane]) * x[i + lane];
  for (; i < width; ++i) partial[0] += static_cast<double>(x[i]) * x[i];
  double total = 0;
  for (const double p : partial) total += p;
  return total;
}

QG_MULTIVERSION void scale_row(const float* x, float factor, const float* weight, float* out, int64_t width) {
  for (int64_t i = 0; i < width; ++i) out[i] = x[i] * factor * weight[i];
}

QG_MULTIVERSION void rotate(const float* cosine, const float* sine, float* first, float* second, int64_t half) {
  for (int64_t i = 0; i < half; ++i) {
    const float a = first[i], b = second[i];
    first[i] = a * cosine[i] - b * sine[i];
    second[i] = b * cosine[i] + a * sine[i];
  }
}

QG_MULTIVERSION void silu_mul_row(const float* gate, const float* up, float* out, int64_t width) {
  for (int64_t i = 0; i < width; ++i) out[i] = gate[i] / (1.0f + exp_lane(-gate[i])) * up[i];
}

QG_MULTIVERSION void add_row(float* x, const float* y, int64_t width) {
  for (int64_t i = 0; i < width; ++i) x[i] += y[i];
}

QG_MULTIVERSION float amax(const float* x, int64_t width) {
  float largest = 0;
  for (int64_t i = 0; i < width; ++i) {
    const float magnitude = std::fabs(x[i]);
    largest = magnitude > largest ? magnitude : largest;
  }
  return largest;
}

QG_MULTIVERSION void multiply_row(const float* x, const float* by, float* to, int64_t width) {
  for (int64_t i = 0; i < width; ++i) to[i] = x[i] * by[i];
}

// Adding 1.5 * 2^23 rounds to an integer, ties to even.
QG_MULTIVERSION void round_int8(const float* x, float multiplier, float* q, int64_t width) {
  for (int64_t i = 0; i < width; ++i) {
    const float v = x[i] * multiplier;
    const float below = v < 127.0f ? v : 127.0f, clamped = below > -127.0f ? below : -127.0f;
    q[i] = (clamped + 12582912.0f) - 12582912.0f;
  }
}

void round_e4m3(const float* x, float multiplier, float* q, int64_t width) {
  thread_local std::vector<uint8_t> codes;
  codes.resize(static_cast<size_t>(width));
  e4m3_from_f32(x, codes.data(), static_cast<size_t>(width), multiplier);
  f32_from_e4m3(codes.data(), q, static_cast<size_t>(width));
}

using Round = void (*)(const float* x, float multiplier, float* q, int64_t width);

struct ActivationRows {
  const float *x, *multiplier;
  float static_scale;
  float* q;
  int64_t ldq;
  float* scales;
  int64_t m, width;
};

void quantize_rows(const ActivationRows& a, float largest_code, Round round) {
  parallel_for(a.m, kRowsPerPiece, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const float* row = a.x + i * a.width;
      float* q = a.q + i * a.ldq;
      if (a.multiplier) {
        multiply_row(row, a.multiplier, q, a.width);
        row = q;
      }
      const float scale = a.static_scale > 0 ? a.static_scale : std::max(amax(row, a.width) / largest_code, FLT_MIN);
      a.scales[i] = scale;
      round(row, 1.0f / scale, q, a.width);
      std::fill(q + a.width, q + a.ldq, 0.0f);
    }
  });
}

}  // namespace

void rms_norm(const float* x, const float* weight, double epsilon, float* out, int64_t m, int64_t width) {
  parallel_for(m, kRowsPerPiece, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const double mean = sum_of_squares(x + i * width, width) / static_cast<double>(width);
      scale_row(x + i * width, static_cast<float>(1.0 / std::sqrt(mean + epsilon)), weight, out + i * width, width);
    }
  });
}

// The rescaling of Llama 3.1: low frequencies (wavelengths beyond the original context) are divided by `factor`, high
// ones stay, those between are blended (Meta's llama-models, apply_scaling).
std::vector<double> rope_frequencies(const ModelShape& shape) {
  std::vector<double> frequencies;
  for (int64_t i = 0; i < shape.head_dim / 2; ++i) {
    double f = std::pow(shape.rope_theta, -2.0 * static_cast<double>(i) / static_cast<double>(shape.head_dim));
    if (shape.rope_scaling) {
      const RopeScaling& s = *shape.rope_scaling;
      const double original = static_cast<double>(s.original_max_position), wavelength = kTwoPi / f;
      if (wavelength > original / s.low_freq_factor) {
        f /= s.factor;
      } else if (wavelength > original / s.high_freq_factor) {
        const double kept = (original / wavelength - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor);
        f = (1 - kept) * f / s.factor + kept * f;
      }
    }
    frequencies.push_back(f);
  }
  return frequencies;
}

RopeTable make_rope_table(const std::vector<double>& frequencies, std::span<const int64_t> positions) {
  const int64_t half = static_cast<int64_t>(frequencies.size()), m = static_cast<int64_t>(positions.size());
  RopeTable table;
  table.cosine.resize(static_cast<size_t>(m * half));
  table.sine.resize(static_cast<size_t>(m * half));
  parallel_for(m, 32, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin * half; i < end * half; ++i) {
      const double angle =
          static_cast<double>(positions[static_cast<size_t>(i / half)]) * frequencies[static_cast<size_t>(i % half)];
      table.cosine[static_cast<size_t>(i)] = static_cast<float>(std::cos(angle));
      table.sine[static_cast<size_t>(i)] = static_cast<float>(std::sin(angle));
    }
  });
  return table;
}

void rope(const RopeTable& table, float* x, int64_t stride, int64_t m, int64_t heads, int64_t head_dim) {
  const int64_t half = head_dim / 2;
  parallel_for(m, kRowsPerPiece, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      for (int64_t head = 0; head < heads; ++head) {
        float* first = x + i * stride + head * head_dim;
        rotate(table.cosine.data() + i * half, table.sine.data() + i * half, first, first + half, half);
      }
    }
  });
}

void silu_mul(const float* gate, const float* up, float* out, int64_t m, int64_t width) {
  parallel_for(m, kRowsPerPiece, [&](int64_t begin, int64_t end) {
    silu_mul_row(gate + begin * width, up + begin * width, out + begin * width, (end - begin) * width);
  });
}

void add(float* x, const float* y, int64_t m, int64_t width) {
  parallel_for(m, kRowsPerPiece, [&](int64_t begin, int64_t end) {
    add_row(x + begin * width, y + begin * width, (end - begin) * width);
  });
}

void embedding(DType dtype, const void* table, std::span<const int32_t> tokens, float* out, int64_t width) {
  const int64_t row_bytes = width * static_cast<int64_t>(size_bytes(dtype));
  for (size_t i = 0; i < tokens.size(); ++i)
    f32_from_any(dtype, static_cast<const std::byte*>(table) + tokens[i] * row_bytes,
                 out + static_cast<int64_t>(i) * width, static_cast<size_t>(width));
}

void quantize_activation_fp8(const float* x, const float* multiplier, float static_scale, float* q, int64_t ldq,
                             float* scales, int64_t m, int64_t width) {
  quantize_rows({x, multiplier, static_scale, q, ldq, scales, m, width}, kE4m3Max, round_e4m3);
}

void quantize_activation_int8(const float* x, const float* multiplier, float static_scale, float* q, int64_t ldq,
                              float* scales, int64_t m, int64_t width) {
  quantize_rows({x, multiplier, static_scale, q, ldq, scales, m, width}, 127.0f, round_int8);
}

}  // namespace qg
