#pragma once
// Layers and inputs for the linear tests: random stored bytes, and what each means in double precision.
#include <cmath>
#include <cstring>
#include <vector>

#include "core/float.h"
#include "core/parallel.h"
#include "core/quant_spec.h"
#include "core/rng.h"
#include "kernels/linear/cuda.h"

namespace qg::test {

// bf16_to_f16 and f16_to_bf16: the type that is stored, and the other one in which it is computed.
enum class Kind {
  f16,
  bf16,
  bf16_to_f16,
  f16_to_bf16,
  fp8_static,
  fp8_dynamic,
  fp8_f16,
  int8_dynamic,
  int8_static,
  w4,
  w4_zeros
};
inline constexpr Kind kKinds[] = {Kind::f16,         Kind::bf16,        Kind::bf16_to_f16, Kind::f16_to_bf16,
                                  Kind::fp8_static,  Kind::fp8_dynamic, Kind::fp8_f16,     Kind::int8_dynamic,
                                  Kind::int8_static, Kind::w4,          Kind::w4_zeros};

inline const char* to_string(Kind kind) {
  constexpr const char* names[] = {"f16",     "bf16",         "bf16_to_f16", "f16_to_bf16", "fp8_static", "fp8_dynamic",
                                   "fp8_f16", "int8_dynamic", "int8_static", "w4",          "w4_zeros"};
  return names[static_cast<int>(kind)];
}
inline bool is_int4(Kind kind) {
  return kind == Kind::w4 || kind == Kind::w4_zeros;
}
// Of the context that computes a kind.
inline DType type_of(Kind kind) {
  return kind == Kind::bf16 || kind == Kind::f16_to_bf16 ? DType::bf16 : DType::f16;
}
inline bool is_int8(Kind kind) {
  return kind == Kind::int8_dynamic || kind == Kind::int8_static;
}
inline bool is_fp8(Kind kind) {
  return kind >= Kind::fp8_static && kind <= Kind::fp8_f16;
}
inline ActivationScaling activations_of(Kind kind) {
  if (kind == Kind::fp8_static || kind == Kind::int8_static) return ActivationScaling::static_tensor;
  return kind == Kind::fp8_dynamic || kind == Kind::int8_dynamic ? ActivationScaling::dynamic_token
                                                                 : ActivationScaling::none;
}

inline constexpr float kStaticScale = 0.0078125f * 1.25f;

// bytes[i] of a stream of random ones.
inline uint8_t random_byte(uint64_t seed, uint64_t i) {
  return static_cast<uint8_t>(mix64(seed * 0x9e3779b97f4a7c15ull + (i >> 3)) >> (8 * (i & 7)));
}
// Sign, 2^-4..2^-1, ten bits: no rounding anywhere in making it.
inline uint16_t random_half(uint64_t seed, uint64_t i) {
  const uint64_t v = mix64(seed * 0x9e3779b97f4a7c15ull + i);
  return static_cast<uint16_t>((v & 0x83ff) | ((11 + (v >> 16) % 4) << 10));
}
// The same with seven bits, of the same values where both types hold them.
inline uint16_t random_bfloat(uint64_t seed, uint64_t i) {
  return bf16_from_f32(f32_from_f16(static_cast<uint16_t>(random_half(seed, i) & 0xfff8)));
}
inline uint8_t random_e4m3(uint64_t seed, uint64_t i) {
  const uint8_t code = random_byte(seed, i);
  return (code & 0x7f) == 0x7f ? static_cast<uint8_t>(code ^ 1) : code;
}
inline int8_t random_int8(uint64_t seed, uint64_t i) {
  const auto code = static_cast<int8_t>(random_byte(seed, i));
  return code == -128 ? int8_t{-127} : code;
}

template <class T, class Make>
NewTensor filled(DType dtype, Shape shape, const Make& make) {
  NewTensor made = new_tensor(dtype, std::move(shape));
  T* to = made.as<T>();
  parallel_for(made.tensor.elements(), int64_t{1} << 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) to[i] = make(static_cast<uint64_t>(i));
  });
  return made;
}

// Scales are halves (int4 checkpoints store such), so that the kernels round nothing the reference does not.
inline LinearWeights make_part(Kind kind, int64_t n, int64_t k, int64_t group, uint64_t seed) {
  LinearWeights w;
  w.n = n;
  w.k = k;
  const auto scale = [&](uint64_t i, float base) {
    return f32_from_f16(f16_from_f32(base * (1.0f + static_cast<float>(random_byte(seed + 7, i)) / 256.0f)));
  };
  if (kind <= Kind::f16_to_bf16) {
    // Halves that become bfloats have seven bits, so that both hold them.
    const auto half = [&](uint64_t i) {
      return static_cast<uint16_t>(random_half(seed, i) & (kind == Kind::f16 ? 0xffff : 0xfff8));
    };
    w.format = WeightFormat::fp16;
    w.weight = kind == Kind::f16 || kind == Kind::f16_to_bf16
                   ? filled<uint16_t>(DType::f16, {n, k}, half).tensor
                   : filled<uint16_t>(DType::bf16, {n, k}, [&](uint64_t i) { return random_bfloat(seed, i); }).tensor;
  } else if (is_int4(kind)) {
    w.format = WeightFormat::int4_awq;
    w.group_size = group;
    w.weight = filled<uint8_t>(DType::u8, {n, k / 2}, [&](uint64_t i) { return random_byte(seed, i); }).tensor;
    w.weight_scale = filled<float>(DType::f32, {n, k / group}, [&](uint64_t i) { return scale(i, 0.01f); }).tensor;
    if (kind == Kind::w4_zeros)
      w.zero_point = filled<uint8_t>(DType::u8, {n, k / group}, [&](uint64_t i) {
                       return static_cast<uint8_t>(random_byte(seed + 9, i) & 15);
                     }).tensor;
  } else {
    const bool fp8 = is_fp8(kind);
    w.format = fp8 ? WeightFormat::fp8 : WeightFormat::int8_sq;
    const int64_t scales = kind == Kind::fp8_dynamic || is_int8(kind) ? n : 1;
    w.weight = fp8 ? filled<uint8_t>(DType::f8_e4m3, {n, k}, [&](uint64_t i) { return random_e4m3(seed, i); }).tensor
                   : filled<int8_t>(DType::i8, {n, k}, [&](uint64_t i) { return random_int8(seed, i); }).tensor;
    w.weight_scale = filled<float>(DType::f32, {scales}, [&](uint64_t i) { return scale(i, 0.001f); }).tensor;
    if (activations_of(kind) == ActivationScaling::static_tensor)
      w.input_scale = filled<float>(DType::f32, {1}, [&](uint64_t) { return kStaticScale; }).tensor;
  }
  return w;
}

// Row `row` of W in double, all weight scales applied.
inline void weight_row(const LinearWeights& w, int64_t row, double* out) {
  const int64_t k = w.k;
  for (int64_t c = 0; c < k; ++c) {
    const auto at = static_cast<size_t>(row * k + c);
    switch (w.format) {
      case WeightFormat::fp16: {
        const uint16_t bits = w.weight.as<uint16_t>()[at];
        out[c] = static_cast<double>(w.weight.dtype == DType::f16 ? f32_from_f16(bits) : f32_from_bf16(bits));
        break;
      }
      case WeightFormat::fp8:
        out[c] = static_cast<double>(f32_from_e4m3(w.weight.as<uint8_t>()[at]));
        break;
      case WeightFormat::int8_sq:
        out[c] = w.weight.as<int8_t>()[at];
        break;
      case WeightFormat::int4_awq: {
        const int64_t group = row * (k / w.group_size) + c / w.group_size;
        const int u = w.weight.as<uint8_t>()[at / 2] >> (c % 2 * 4) & 15;
        const int zero = w.zero_point.empty() ? 8 : w.zero_point.as<uint8_t>()[group];
        out[c] = (u - zero) * static_cast<double>(w.weight_scale.as<float>()[group]);
        break;
      }
    }
    if (w.format == WeightFormat::fp8 || w.format == WeightFormat::int8_sq)
      out[c] *= static_cast<double>(w.weight_scale.as<float>()[w.weight_scale.elements() == 1 ? 0 : row]);
  }
}

// x: codes or halves [m, k] and a scale a row.
struct Input {
  int64_t m = 0, k = 0;
  ActivationForm form = ActivationForm::f16;
  NewTensor values;
  std::vector<float> row_scales;  // static: all the same

  Input(ActivationForm of, bool per_token, int64_t rows, int64_t width, uint64_t seed)
      : m(rows), k(width), form(of), values(make(of, rows, width, seed)) {
    row_scales.assign(static_cast<size_t>(m), is_16_bit(of) ? 1.0f : kStaticScale);
    if (per_token)
      for (int64_t i = 0; i < m; ++i)
        row_scales[static_cast<size_t>(i)] *=
            1.0f + static_cast<float>(random_byte(seed + 3, static_cast<uint64_t>(i))) / 256;
  }
  static NewTensor make(ActivationForm form, int64_t m, int64_t k, uint64_t seed) {
    if (form == ActivationForm::f16)
      return filled<uint16_t>(DType::f16, {m, k}, [&](uint64_t i) { return random_half(seed, i); });
    if (form == ActivationForm::bf16)
      return filled<uint16_t>(DType::bf16, {m, k}, [&](uint64_t i) { return random_bfloat(seed, i); });
    if (form == ActivationForm::fp8)
      return filled<uint8_t>(DType::f8_e4m3, {m, k}, [&](uint64_t i) { return random_e4m3(seed, i); });
    return filled<int8_t>(DType::i8, {m, k}, [&](uint64_t i) { return random_int8(seed, i); });
  }
  double at(int64_t row, int64_t column) const {
    const auto i = static_cast<size_t>(row * k + column);
    const double scale = static_cast<double>(row_scales[static_cast<size_t>(row)]);
    if (form == ActivationForm::f16) return static_cast<double>(f32_from_f16(values.as<uint16_t>()[i])) * scale;
    if (form == ActivationForm::bf16) return static_cast<double>(f32_from_bf16(values.as<uint16_t>()[i])) * scale;
    if (form == ActivationForm::fp8) return static_cast<double>(f32_from_e4m3(values.as<uint8_t>()[i])) * scale;
    return values.as<int8_t>()[i] * scale;
  }
};

// One output: the sum of x w, of its terms' magnitudes, and the root of the sum of their squares.
struct Expected {
  double value = 0, magnitude = 0, root_square = 0;
};

// Outputs at rows x columns, [rows][columns]. Columns count through the parts. x has k and at(row, column).
template <class X>
std::vector<Expected> reference(const std::vector<LinearWeights>& parts, const X& x, const std::vector<int64_t>& rows,
                                const std::vector<int64_t>& columns) {
  std::vector<Expected> out(rows.size() * columns.size());
  const int64_t k = x.k;
  std::vector<double> inputs(rows.size() * static_cast<size_t>(k));
  parallel_for(static_cast<int64_t>(rows.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r)
      for (int64_t c = 0; c < k; ++c) inputs[static_cast<size_t>(r * k + c)] = x.at(rows[static_cast<size_t>(r)], c);
  });
  parallel_for(static_cast<int64_t>(columns.size()), 1, [&](int64_t begin, int64_t end) {
    std::vector<double> w(static_cast<size_t>(k));
    for (int64_t j = begin; j < end; ++j) {
      int64_t column = columns[static_cast<size_t>(j)];
      size_t part = 0;
      while (column >= parts[part].n) column -= parts[part++].n;
      weight_row(parts[part], column, w.data());
      for (size_t r = 0; r < rows.size(); ++r) {
        Expected& e = out[r * columns.size() + static_cast<size_t>(j)];
        const double* in = inputs.data() + static_cast<int64_t>(r) * k;
        double square = 0;
        for (int64_t c = 0; c < k; ++c) {
          const double product = in[c] * w[static_cast<size_t>(c)];
          e.value += product;
          e.magnitude += std::fabs(product);
          square += product * product;
        }
        e.root_square = std::sqrt(square);
      }
    }
  });
  return out;
}

}  // namespace qg::test
