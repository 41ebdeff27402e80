// Every linear layer against a double-precision loop over the stored codes.
#include <gtest/gtest.h>

#include "core/error.h"
#include "core/parallel.h"
#include "core/tensor.h"
#include "kernels/linear/run.h"
#include "tests/kernels/naive.h"

namespace qg {
namespace {

using test::poisoned;
using test::random_floats;

// A layer's stored tensors, and what they mean, in double: weight [n, k] and the factor behind each row's sum.
struct Layer {
  LinearWeights stored;
  std::vector<double> weight, row_factor;
};

template <class T>
Tensor make(DType dtype, Shape shape, const std::vector<T>& values) {
  const NewTensor made = new_tensor(dtype, std::move(shape));
  std::copy(values.begin(), values.end(), made.as<T>());
  return made.tensor;
}

std::vector<float> positive(int64_t count, unsigned seed) {
  std::vector<float> values = random_floats(count, seed);
  for (float& v : values) v = 0.01f + 0.01f * std::fabs(v);
  return values;
}

Layer empty_layer(WeightFormat format, int64_t n, int64_t k) {
  Layer layer;
  layer.stored.format = format;
  layer.stored.n = n;
  layer.stored.k = k;
  layer.weight.resize(static_cast<size_t>(n * k));
  layer.row_factor.assign(static_cast<size_t>(n), 1.0);
  return layer;
}

// Values with few bits are exact in F16, BF16 and F32 alike.
Layer fp16_layer(DType dtype, int64_t n, int64_t k) {
  Layer layer = empty_layer(WeightFormat::fp16, n, k);
  std::vector<float> values;
  for (const int code : test::random_ints(n * k, 11, -120, 120)) values.push_back(static_cast<float>(code) / 64);
  layer.weight.assign(values.begin(), values.end());
  layer.stored.weight = tensor_from_f32(values, {n, k}, dtype);
  return layer;
}

void add_row_scales(Layer& layer, bool per_channel) {
  const int64_t n = layer.stored.n, count = per_channel ? n : 1;
  const std::vector<float> scales = positive(count, 13);
  layer.stored.weight_scale = make(DType::f32, {count}, scales);
  for (int64_t j = 0; j < n; ++j) layer.row_factor[static_cast<size_t>(j)] = scales[static_cast<size_t>(j % count)];
}

Layer fp8_layer(int64_t n, int64_t k, bool per_channel) {
  Layer layer = empty_layer(WeightFormat::fp8, n, k);
  std::vector<uint8_t> codes;
  for (const int code : test::random_ints(n * k, 12, 0, 0xfe))
    codes.push_back(code == 0x7f ? 0x7e : static_cast<uint8_t>(code));
  for (size_t i = 0; i < codes.size(); ++i) layer.weight[i] = test::e4m3_value(codes[i]);
  layer.stored.weight = make(DType::f8_e4m3, {n, k}, codes);
  add_row_scales(layer, per_channel);
  return layer;
}

Layer int8_layer(int64_t n, int64_t k, bool per_channel) {
  Layer layer = empty_layer(WeightFormat::int8_sq, n, k);
  std::vector<int8_t> codes;
  for (const int code : test::random_ints(n * k, 14, -127, 127)) codes.push_back(static_cast<int8_t>(code));
  layer.weight.assign(codes.begin(), codes.end());
  layer.stored.weight = make(DType::i8, {n, k}, codes);
  add_row_scales(layer, per_channel);
  return layer;
}

Layer int4_layer(int64_t n, int64_t k, int64_t group, bool zero_points) {
  Layer layer = empty_layer(WeightFormat::int4_awq, n, k);
  const std::vector<int> codes = test::random_ints(n * k, 15, 0, 15),
                         zeros = test::random_ints(n * k / group, 16, 0, 15);
  const std::vector<float> scales = positive(n * k / group, 17);
  std::vector<uint8_t> bytes(static_cast<size_t>(n * k / 2));
  for (size_t i = 0; i < codes.size(); ++i) {
    const size_t g = i / static_cast<size_t>(group);
    bytes[i / 2] = static_cast<uint8_t>(bytes[i / 2] | codes[i] << (i % 2 == 0 ? 0 : 4));
    layer.weight[i] = (codes[i] - (zero_points ? zeros[g] : 8)) * static_cast<double>(scales[g]);
  }
  layer.stored.group_size = group;
  layer.stored.weight = make(DType::u8, {n, k / 2}, bytes);
  layer.stored.weight_scale = make(DType::f32, {n, k / group}, scales);
  if (zero_points)
    layer.stored.zero_point = make(DType::u8, {n, k / group}, std::vector<uint8_t>(zeros.begin(), zeros.end()));
  return layer;
}

void add_prequant(Layer& layer) {
  std::vector<float> scales = positive(layer.stored.k, 18);
  for (float& s : scales) s *= 64;
  layer.stored.prequant_scale = make(DType::f32, {layer.stored.k}, scales);
}

void add_input_scale(Layer& layer, float scale) {
  layer.stored.input_scale = make(DType::f32, {1}, std::vector<float>{scale});
}

// The input of row i as the product sees it, and the factor behind it. Scales are rounded to float as they are stored.
std::vector<double> prepared_row(const Layer& layer, ActivationScaling activations, const float* x, double& factor) {
  std::vector<float> row(x, x + layer.stored.k);
  if (!layer.stored.prequant_scale.empty())
    for (size_t i = 0; i < row.size(); ++i) row[i] *= layer.stored.prequant_scale.as<float>()[i];
  factor = 1;
  if (activations == ActivationScaling::none) return {row.begin(), row.end()};
  const bool fp8 = layer.stored.format == WeightFormat::fp8;
  const float scale = activations == ActivationScaling::static_tensor
                          ? *layer.stored.input_scale.as<float>()
                          : static_cast<float>(test::amax(row.data(), layer.stored.k)) / (fp8 ? 448.0f : 127.0f);
  factor = scale;
  std::vector<double> codes;
  for (const float v : row) {
    const float scaled = v * (1.0f / scale);  // the definition multiplies by the rounded reciprocal
    codes.push_back(scale == 0 ? 0.0 : fp8 ? test::round_e4m3(scaled) : test::round_int8(scaled));
  }
  return codes;
}

// Runs the layer on m rows (row 1 all zeros) and holds each output against the loop. int8: sums are exact, only the
// factor is rounded.
void expect_right(const Layer& layer, ActivationScaling activations, int64_t m, ComputePath path) {
  const int64_t n = layer.stored.n, k = layer.stored.k;
  std::vector<float> x = random_floats(m * k, static_cast<unsigned>(20 + m)), y = poisoned(m * n);
  if (m > 1) std::fill_n(x.begin() + k, k, 0.0f);
  const LinearDesc desc = describe_linear(layer.stored, activations, m);
  ASSERT_EQ(run_linear_reference(desc, linear_params(layer.stored, x.data(), y.data())), path) << to_string(desc);
  const bool exact = layer.stored.format == WeightFormat::int8_sq;
  for (int64_t i = 0; i < m; ++i) {
    double factor = 1;
    const std::vector<double> row = prepared_row(layer, desc.activations, x.data() + i * k, factor);
    for (int64_t j = 0; j < n; ++j) {
      double sum = 0, magnitude = 0;
      for (int64_t t = 0; t < k; ++t) {
        const double product = row[static_cast<size_t>(t)] * layer.weight[static_cast<size_t>(j * k + t)];
        sum += product;
        magnitude += std::fabs(product);
      }
      const double scale = factor * layer.row_factor[static_cast<size_t>(j)];
      const double roundings = exact ? 0 : static_cast<double>(k) / 16 + 7;
      const double tolerance = scale * (magnitude * roundings + 3 * std::fabs(sum)) * 0x1p-24 + 1e-30;
      ASSERT_NEAR(y[static_cast<size_t>(i * n + j)], sum * scale, tolerance)
          << to_string(desc) << " at " << i << ", " << j;
    }
  }
}

constexpr int64_t kRows[] = {1, 2, 3, 4, 5, 6, 7, 8, 17, 64, 65};

TEST(Linear, W16A16) {
  for (const DType dtype : {DType::f16, DType::bf16, DType::f32})
    for (const int64_t k : {24, 33, 64, 100}) {
      const Layer layer = fp16_layer(dtype, 37, k);
      for (const int64_t m : kRows) expect_right(layer, ActivationScaling::none, m, ComputePath::w16a16);
    }
}

TEST(Linear, W8A8Fp8) {
  for (const bool per_channel : {false, true}) {
    Layer layer = fp8_layer(29, 70, per_channel);
    for (const int64_t m : kRows) {
      expect_right(layer, ActivationScaling::dynamic_token, m, ComputePath::w8a8_fp8);
      expect_right(layer, ActivationScaling::none, m, ComputePath::w8a16_fp8);
    }
    add_input_scale(layer, 0.004f);  // small enough that inputs saturate at 448
    for (const int64_t m : kRows) expect_right(layer, ActivationScaling::static_tensor, m, ComputePath::w8a8_fp8);
  }
}

TEST(Linear, W4A16) {
  for (const int64_t group : {128, 64, 32}) {
    for (const bool zero_points : {false, true}) {
      Layer layer = int4_layer(19, 3 * group, group, zero_points);
      for (const int64_t m : kRows) expect_right(layer, ActivationScaling::none, m, ComputePath::w4a16);
      add_prequant(layer);
      for (const int64_t m : {1, 5}) expect_right(layer, ActivationScaling::none, m, ComputePath::w4a16);
    }
  }
}

TEST(Linear, W8A8Int8IsExact) {
  for (const bool per_channel : {false, true}) {
    for (const int64_t k : {40, 1300}) {
      Layer layer = int8_layer(23, k, per_channel);
      for (const int64_t m : {1, 4, 9})
        expect_right(layer, ActivationScaling::dynamic_token, m, ComputePath::w8a8_int8);
      add_prequant(layer);
      expect_right(layer, ActivationScaling::dynamic_token, 5, ComputePath::w8a8_int8);
      add_input_scale(layer, 0.02f);
      expect_right(layer, ActivationScaling::static_tensor, 6, ComputePath::w8a8_int8);
    }
  }
}

TEST(Linear, ResultsDoNotDependOnRowsOrThreads) {
  const Layer layer = int4_layer(333, 256, 64, false);
  const int64_t m = 9, n = 333;
  const std::vector<float> x = random_floats(m * 256, 30);
  std::vector<float> all = poisoned(m * n), one = poisoned(n);
  run_linear_reference(describe_linear(layer.stored, ActivationScaling::none, m),
                       linear_params(layer.stored, x.data(), all.data()));
  const int threads = num_threads();
  set_num_threads(3);
  for (int64_t i = 0; i < m; ++i) {
    run_linear_reference(describe_linear(layer.stored, ActivationScaling::none, 1),
                         linear_params(layer.stored, x.data() + i * 256, one.data()));
    EXPECT_TRUE(std::equal(one.begin(), one.end(), all.begin() + i * n)) << i;
  }
  set_num_threads(threads);
}

TEST(Linear, DequantizedRowsAreWhatTheProductUses) {
  for (const Layer& layer : {fp8_layer(7, 48, true), int8_layer(7, 48, false), int4_layer(7, 64, 32, true)}) {
    const int64_t k = layer.stored.k, first = 2, rows = 4;
    std::vector<float> out = poisoned(rows * k);
    dequantize_rows(describe_linear(layer.stored, ActivationScaling::dynamic_token, 0),
                    linear_params(layer.stored, nullptr, nullptr), first, rows, out.data());
    for (int64_t i = 0; i < rows * k; ++i) {
      const size_t row = static_cast<size_t>(first + i / k);
      EXPECT_FLOAT_EQ(out[static_cast<size_t>(i)],
                      static_cast<float>(layer.weight[row * static_cast<size_t>(k) + static_cast<size_t>(i % k)] *
                                         layer.row_factor[row]));
    }
  }
}

TEST(Linear, RefusesWhatDoesNotExist) {
  const Layer int8 = int8_layer(4, 16, true);
  EXPECT_THROW(linear_reference_path(describe_linear(int8.stored, ActivationScaling::none, 1)), Error);
  Layer no_scale = fp8_layer(4, 16, false);
  no_scale.stored.weight_scale = {};
  EXPECT_THROW(describe_linear(no_scale.stored, ActivationScaling::none, 1), Error);
  Layer wrong_group = int4_layer(4, 64, 32, false);
  wrong_group.stored.group_size = 48;
  EXPECT_THROW(describe_linear(wrong_group.stored, ActivationScaling::none, 1), Error);
  Layer wrong_type = fp16_layer(DType::f16, 4, 16);
  wrong_type.stored.weight.dtype = DType::i16;
  EXPECT_THROW(describe_linear(wrong_type.stored, ActivationScaling::none, 1), Error);
}

TEST(Linear, NamesSayWhatRan) {
  Layer layer = fp8_layer(4, 16, false);
  EXPECT_EQ(linear_reference_name(describe_linear(layer.stored, ActivationScaling::dynamic_token, 1)),
            "cpu_reference_w8a8_fp8_dynamic");
  add_input_scale(layer, 1);
  EXPECT_EQ(linear_reference_name(describe_linear(layer.stored, ActivationScaling::static_tensor, 1)),
            "cpu_reference_w8a8_fp8_static");
  EXPECT_EQ(linear_reference_name(describe_linear(int4_layer(4, 64, 64, false).stored, ActivationScaling::none, 1)),
            "cpu_reference_w4a16_g64");
  EXPECT_EQ(to_string(describe_linear(layer.stored, ActivationScaling::static_tensor, 1)),
            "linear m=1 n=4 k=16 fp8 tensor static");
}

}  // namespace
}  // namespace qg
