#include "quantize/synthetic_checkpoint.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/error.h"
#include "core/float.h"
#include "core/multiversion.h"
#include "core/parallel.h"
#include "core/rng.h"

namespace qg {
namespace {

constexpr float kInputScale = 16.0f / 448.0f;  // activations are near 1; the rare large ones stay in range
constexpr float kKvMagnitude = 8.0f;
constexpr uint64_t kShapingStream = uint64_t{3} << 40;  // apart from those of the tensors

using Row = std::vector<float>;

void for_each_row(const Tensor& stored, const std::function<void(int64_t row, Row& values)>& use) {
  const int64_t k = stored.shape[1];
  parallel_for(stored.shape[0], 16, [&](int64_t begin, int64_t end) {
    Row values(static_cast<size_t>(k));
    for (int64_t row = begin; row < end; ++row) {
      const size_t bytes = static_cast<size_t>(k) * size_bytes(stored.dtype);
      f32_from_any(stored.dtype, stored.data + static_cast<size_t>(row) * bytes, values.data(), values.size());
      use(row, values);
    }
  });
}

// As integers magnitudes of floats compare as they do as numbers, and loops over those are vectorized.
QG_MULTIVERSION float amax(const float* x, int64_t count) {
  uint32_t largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::bit_cast<uint32_t>(x[i]) & 0x7fffffffu);
  return std::max(std::bit_cast<float>(largest), 1e-12f);
}

// to[i] = x[i] / scale, rounded to nearest even, plus `zero`.
QG_MULTIVERSION void round_to_steps(const float* x, float scale, int zero, int8_t* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i)
    to[i] = static_cast<int8_t>(static_cast<int>(std::nearbyint(x[i] / scale)) + zero);
}

QG_MULTIVERSION void pair_nibbles(const int8_t* u, uint8_t* to, int64_t pairs) {
  for (int64_t i = 0; i < pairs; ++i)
    to[i] = static_cast<uint8_t>(static_cast<uint8_t>(u[2 * i]) | static_cast<uint8_t>(u[2 * i + 1]) << 4);
}

void round_to_fp8(const Tensor& stored, bool per_channel, LinearWeights& out) {
  const int64_t n = out.n, k = out.k;
  NewTensor codes = new_tensor(DType::f8_e4m3, {n, k});
  std::vector<float> largest(static_cast<size_t>(n));
  for_each_row(stored, [&](int64_t row, Row& x) { largest[static_cast<size_t>(row)] = amax(x.data(), k); });
  std::vector<float> scales;
  if (per_channel)
    for (const float l : largest) scales.push_back(l / kE4m3Max);
  else
    scales.push_back(*std::max_element(largest.begin(), largest.end()) / kE4m3Max);
  for_each_row(stored, [&](int64_t row, Row& x) {
    const float scale = scales[per_channel ? static_cast<size_t>(row) : 0];
    e4m3_from_f32(x.data(), reinterpret_cast<uint8_t*>(codes.data) + row * k, x.size(), 1.0f / scale);
  });
  out.weight = codes.tensor;
  out.weight_scale = tensor_from_f32(scales, {static_cast<int64_t>(scales.size())});
}

void round_to_int8(const Tensor& stored, LinearWeights& out) {
  const int64_t k = out.k;
  NewTensor codes = new_tensor(DType::i8, {out.n, k});
  std::vector<float> scales(static_cast<size_t>(out.n));
  for_each_row(stored, [&](int64_t row, Row& x) {
    const float scale = scales[static_cast<size_t>(row)] = amax(x.data(), k) / 127.0f;
    round_to_steps(x.data(), scale, 0, codes.as<int8_t>() + row * k, k);
  });
  out.weight = codes.tensor;
  out.weight_scale = tensor_from_f32(scales, {out.n});
}

void round_to_int4(const Tensor& stored, int64_t group_size, LinearWeights& out) {
  const int64_t k = out.k, groups = k / group_size;
  NewTensor codes = new_tensor(DType::u8, {out.n, k / 2});
  std::vector<float> scales(static_cast<size_t>(out.n * groups));
  for_each_row(stored, [&](int64_t row, Row& x) {
    std::vector<int8_t> u(static_cast<size_t>(k));
    for (int64_t group = 0; group < groups; ++group) {
      const float* from = x.data() + group * group_size;
      const float scale = scales[static_cast<size_t>(row * groups + group)] = amax(from, group_size) / 7.0f;
      round_to_steps(from, scale, 8, u.data() + group * group_size, group_size);
    }
    pair_nibbles(u.data(), codes.as<uint8_t>() + row * (k / 2), k / 2);
  });
  out.weight = codes.tensor;
  out.weight_scale = tensor_from_f32(scales, {out.n, groups});
  out.group_size = group_size;
}

// Shaping that costs what a calibrated one costs: a Walsh-Hadamard rotation of keys and queries, small feedback. Head
// sizes that are no power of two have none.
KvShaping synthetic_shaping(const ModelShape& shape, const Rng& rng) {
  const int64_t d = shape.head_dim;
  KvShaping shaping;
  shaping.k_center.assign(static_cast<size_t>(shape.kv_heads * d), 0.0f);
  const float size = f32_from_f16(f16_from_f32(1.0f / std::sqrt(static_cast<float>(d))));
  for (int64_t i = 0; i < shape.kv_heads * d * d; ++i) {
    const int64_t row = i / d % d, column = i % d;
    shaping.k_transform.push_back(std::popcount(static_cast<uint64_t>(row & column)) % 2 == 0 ? size : -size);
    const auto noise = static_cast<float>(0.1 * (rng.uniform(static_cast<uint64_t>(i)) - 0.5));
    shaping.k_feedback.push_back(column > row ? f32_from_f16(f16_from_f32(noise)) : 0.0f);
  }
  shaping.q_transform = shaping.k_transform;  // its own transposed inverse, but for the rounding of `size`
  shaping.fp8_k_scale = kKvMagnitude / kE4m3Max;
  shaping.int8_k_scale = kKvMagnitude / 127.0f;
  return shaping;
}

class SyntheticCheckpoint : public Checkpoint {
 public:
  SyntheticCheckpoint(ModelTable table, const QuantSpec& quant, const SyntheticOptions& options)
      : table_(std::move(table)), quant_(quant), options_(options) {
    const size_t layers = static_cast<size_t>(table_.shape.layers);
    kv_scales_.fp8.assign(layers, {kKvMagnitude / kE4m3Max, kKvMagnitude / kE4m3Max});
    kv_scales_.int8.assign(layers, {kKvMagnitude / 127.0f, kKvMagnitude / 127.0f});
    if (std::has_single_bit(static_cast<uint64_t>(table_.shape.head_dim)))
      for (size_t layer = 0; layer < layers; ++layer)
        kv_scales_.shaping.push_back(synthetic_shaping(table_.shape, Rng(options.seed, kShapingStream + layer)));
  }

  Layout layout() const override { return Layout::huggingface; }
  const ModelTable& table() const override { return table_; }
  const QuantSpec& quant() const override { return quant_; }
  DType dtype() const override { return options_.dtype; }
  Tensor tensor(const TensorSpec& spec) const override { return synthetic_tensor(spec, table_.shape, options_); }
  LinearWeights linear(const LinearSpec& spec) const override {
    LinearWeights weights;
    weights.format = quant_.weights;
    weights.n = spec.n;
    weights.k = spec.k;
    const Tensor stored = synthetic_linear(spec, table_.shape, options_);
    if (quant_.weights == WeightFormat::fp16)
      weights.weight = stored;
    else if (quant_.weights == WeightFormat::fp8)
      round_to_fp8(stored, quant_.weight_scaling == WeightScaling::channel, weights);
    else if (quant_.weights == WeightFormat::int8_sq)
      round_to_int8(stored, weights);
    else
      round_to_int4(stored, quant_.group_size, weights);
    if (quant_.activations == ActivationScaling::static_tensor)
      weights.input_scale = tensor_from_f32({{kInputScale}}, {1});
    return weights;
  }
  const KvScales& kv_scales() const override { return kv_scales_; }
  const std::optional<Lineage>& lineage() const override { return lineage_; }
  const std::filesystem::path& folder() const override { return folder_; }
  int64_t stored_bytes() const override { return 0; }
  std::string weights_hash() const override { return "synth:" + std::to_string(options_.seed); }

 private:
  ModelTable table_;
  QuantSpec quant_;
  SyntheticOptions options_;
  KvScales kv_scales_;
  std::optional<Lineage> lineage_;
  std::filesystem::path folder_ = "synth";
};

}  // namespace

std::unique_ptr<Checkpoint> make_synthetic_checkpoint(ModelTable table, const QuantSpec& quant,
                                                      const SyntheticOptions& options) {
  return std::make_unique<SyntheticCheckpoint>(std::move(table), quant, options);
}

}  // namespace qg
