// Rows of the weights are expanded to float a block at a time (256 kB of scratch a thread), so that a whole expanded
// matrix never exists; all scales that do not vary along k are applied to the sums.
#include <fmt/format.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "core/error.h"
#include "core/float.h"
#include "core/multiversion.h"
#include "core/parallel.h"
#include "kernels/linear/gemm.h"
#include "kernels/linear/run.h"
#include "kernels/pointwise/run.h"

namespace qg {
namespace {

QG_MULTIVERSION void expand_int8(const int8_t* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = static_cast<float>(from[i]);
}

// One group of one row: `pairs` bytes give 2 * pairs weights, the low nibble first.
QG_MULTIVERSION void expand_int4(const uint8_t* from, float* to, int64_t pairs, float zero, float scale) {
  for (int64_t i = 0; i < pairs; ++i) {
    to[2 * i] = (static_cast<float>(from[i] & 15) - zero) * scale;
    to[2 * i + 1] = (static_cast<float>(from[i] >> 4) - zero) * scale;
  }
}

void expand_int4_row(const LinearDesc& d, const LinearParams& p, int64_t row, float* to) {
  const int64_t groups = d.k / d.group_size, pairs = d.group_size / 2;
  const uint8_t* codes = static_cast<const uint8_t*>(p.weight) + row * (d.k / 2);
  for (int64_t g = 0; g < groups; ++g) {
    const float zero = p.zero_point ? static_cast<float>(p.zero_point[row * groups + g]) : 8.0f;
    expand_int4(codes + g * pairs, to + g * d.group_size, pairs, zero, p.weight_scale[row * groups + g]);
  }
}

// One row's codes as floats; int4 with its group scales.
void expand_row(const LinearDesc& d, const LinearParams& p, int64_t row, float* to) {
  const std::byte* weight = static_cast<const std::byte*>(p.weight);
  switch (d.weights) {
    case WeightFormat::fp16:
    case WeightFormat::fp8:
      return f32_from_any(d.weight_dtype, weight + row * d.k * static_cast<int64_t>(size_bytes(d.weight_dtype)), to,
                          static_cast<size_t>(d.k));
    case WeightFormat::int8_sq:
      return expand_int8(reinterpret_cast<const int8_t*>(weight) + row * d.k, to, d.k);
    case WeightFormat::int4_awq:
      return expand_int4_row(d, p, row, to);
  }
}

bool scales_sums(const LinearDesc& d) {
  return d.weights == WeightFormat::fp8 || d.weights == WeightFormat::int8_sq;
}

float row_scale(const LinearDesc& d, const LinearParams& p, int64_t row) {
  return p.weight_scale[d.weight_scaling == WeightScaling::channel ? row : 0];
}

// The input as the product sees it: rows padded to kGemmLanes, prequant scales applied, quantized to codes.
struct Input {
  const float* x = nullptr;
  int64_t stride = 0;
  std::vector<float> scales;  // [m], quantized inputs only
  std::vector<float> storage;
};

QG_MULTIVERSION void multiply(const float* x, const float* by, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = x[i] * by[i];
}

Input prepare_input(const LinearDesc& d, const LinearParams& p, const InputJudge& judge) {
  Input in;
  in.stride = round_up(d.k, kGemmLanes);
  const float* x = static_cast<const float*>(p.x);
  const bool quantized = d.activations != ActivationScaling::none;
  if (!quantized && !d.prequant && in.stride == d.k) {
    in.x = x;
    return in;
  }
  in.storage.resize(static_cast<size_t>(d.m * in.stride));
  in.x = in.storage.data();
  if (quantized) {
    in.scales.resize(static_cast<size_t>(d.m));
    const float fixed = d.activations == ActivationScaling::static_tensor ? *p.input_scale : 0.0f;
    const auto quantize = d.weights == WeightFormat::fp8 ? quantize_activation_fp8 : quantize_activation_int8;
    quantize(x, p.prequant_scale, fixed, in.storage.data(), in.stride, in.scales.data(), d.m, d.k);
    if (judge) judge({d.weights, d.m, d.k, x, p.prequant_scale, in.storage.data(), in.stride, in.scales.data()});
    return in;
  }
  parallel_for(d.m, 16, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      float* to = in.storage.data() + i * in.stride;
      if (p.prequant_scale) {
        multiply(x + i * d.k, p.prequant_scale, to, d.k);
      } else {
        std::copy_n(x + i * d.k, d.k, to);
      }
    }
  });
  return in;
}

void check(const LinearDesc& d, const LinearParams& p) {
  linear_reference_path(d);
  if (d.activation_dtype != DType::f32)
    throw Error(fmt::format("the CPU reference takes F32 activations, not {}", to_string(d.activation_dtype)));
  const bool missing = !p.weight || (d.m > 0 && (!p.x || !p.y)) || (d.prequant && !p.prequant_scale) ||
                       (d.weight_scaling != WeightScaling::none && !p.weight_scale) ||
                       (d.zero_points && !p.zero_point) ||
                       (d.activations == ActivationScaling::static_tensor && !p.input_scale);
  if (missing) throw Error("a tensor that the desc names is missing", to_string(d));
}

// Rows of the weights that a thread expands at a time.
int64_t block_rows(const LinearDesc& d, int64_t stride) {
  const int64_t in_cache = (int64_t{256} << 10) / static_cast<int64_t>(sizeof(float)) / stride;
  const int64_t for_all_threads = d.n / (4 * num_threads());
  return std::max(kGemmRows, std::min({in_cache, for_all_threads, int64_t{64}}) / kGemmRows * kGemmRows);
}

void run_block(const LinearDesc& d, const LinearParams& p, const Input& in, int64_t begin, int64_t end) {
  const int64_t rows = end - begin;
  thread_local std::vector<float> expanded;
  thread_local std::vector<int32_t> sums;
  expanded.resize(static_cast<size_t>(round_up(rows, kGemmRows) * in.stride));
  for (int64_t r = 0; r < rows; ++r) {
    float* row = expanded.data() + r * in.stride;
    expand_row(d, p, begin + r, row);
    std::fill(row + d.k, row + in.stride, 0.0f);
  }
  std::fill(expanded.begin() + rows * in.stride, expanded.end(), 0.0f);

  float* y = static_cast<float*>(p.y) + begin;
  const bool exact = d.weights == WeightFormat::int8_sq;
  if (exact) {
    sums.resize(static_cast<size_t>(d.m * rows));
    gemm_block_int8(in.x, in.stride, expanded.data(), in.stride, sums.data(), rows, d.m, rows, in.stride);
  } else {
    gemm_block(in.x, in.stride, expanded.data(), in.stride, y, d.n, d.m, rows, in.stride);
  }
  if (!scales_sums(d)) return;
  for (int64_t i = 0; i < d.m; ++i) {
    const float input_scale = in.scales.empty() ? 1.0f : in.scales[static_cast<size_t>(i)];
    for (int64_t r = 0; r < rows; ++r) {
      const float sum = exact ? static_cast<float>(sums[static_cast<size_t>(i * rows + r)]) : y[i * d.n + r];
      y[i * d.n + r] = sum * (input_scale * row_scale(d, p, begin + r));
    }
  }
}

template <class T>
const T* pointer(const Tensor& t) {
  return t.empty() ? nullptr : t.as<T>();
}

}  // namespace

LinearParams linear_params(const LinearWeights& w, const float* x, float* y) {
  LinearParams p;
  p.x = x;
  p.weight = w.weight.data;
  p.weight_scale = pointer<float>(w.weight_scale);
  p.zero_point = pointer<uint8_t>(w.zero_point);
  p.input_scale = pointer<float>(w.input_scale);
  p.prequant_scale = pointer<float>(w.prequant_scale);
  p.y = y;
  return p;
}

ComputePath linear_reference_path(const LinearDesc& d) {
  const bool quantized_input = d.activations != ActivationScaling::none;
  switch (d.weights) {
    case WeightFormat::fp16:
      if (!quantized_input) return ComputePath::w16a16;
      break;
    case WeightFormat::fp8:
      return quantized_input ? ComputePath::w8a8_fp8 : ComputePath::w8a16_fp8;
    case WeightFormat::int4_awq:
      if (!quantized_input) return ComputePath::w4a16;
      break;
    case WeightFormat::int8_sq:
      if (quantized_input) return ComputePath::w8a8_int8;
      break;
  }
  throw Error("no reference computes this combination of weights and activations", to_string(d),
              "int8_sq weights need quantized activations; fp16 and int4_awq weights take 16-bit ones");
}

std::string linear_reference_name(const LinearDesc& d) {
  std::string name = fmt::format("cpu_reference_{}", to_string(linear_reference_path(d)));
  if (d.activations == ActivationScaling::static_tensor) name += "_static";
  if (d.activations == ActivationScaling::dynamic_token) name += "_dynamic";
  if (d.group_size > 0) name += fmt::format("_g{}", d.group_size);
  return name;
}

ComputePath run_linear_reference(const LinearDesc& desc, const LinearParams& params, const InputJudge& judge) {
  check(desc, params);
  if (desc.m == 0 || desc.n == 0) return linear_reference_path(desc);
  const Input in = prepare_input(desc, params, judge);
  parallel_for(desc.n, block_rows(desc, in.stride),
               [&](int64_t begin, int64_t end) { run_block(desc, params, in, begin, end); });
  return linear_reference_path(desc);
}

void dequantize_rows(const LinearDesc& d, const LinearParams& p, int64_t first_row, int64_t rows, float* out) {
  parallel_for(rows, 16, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      float* to = out + r * d.k;
      expand_row(d, p, first_row + r, to);
      if (!scales_sums(d)) continue;
      const float scale = row_scale(d, p, first_row + r);
      for (int64_t i = 0; i < d.k; ++i) to[i] *= scale;
    }
  });
}

}  // namespace qg
