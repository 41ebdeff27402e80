#pragma once
// A checkpoint whose linear layers are rounded to a weight format as they are read, the plainest way there is, so that
// every format can be run without a quantizer.
#include <cmath>
#include <memory>

#include "checkpoint/checkpoint.h"
#include "core/float.h"

namespace qg::test {

class RoundedCheckpoint : public Checkpoint {
 public:
  RoundedCheckpoint(std::shared_ptr<const Checkpoint> base, WeightFormat format, ActivationScaling activations,
                    int64_t group_size = 32)
      : base_(std::move(base)), group_size_(group_size) {
    quant_.weights = format;
    quant_.activations = activations;
    const size_t layers = static_cast<size_t>(base_->table().shape.layers);
    scales_.int8.assign(layers, KvScale{0.05f, 0.05f});
  }

  Layout layout() const override { return base_->layout(); }
  const ModelTable& table() const override { return base_->table(); }
  const QuantSpec& quant() const override { return quant_; }
  DType dtype() const override { return base_->dtype(); }
  Tensor tensor(const TensorSpec& spec) const override { return base_->tensor(spec); }
  const KvScales& kv_scales() const override { return scales_; }
  const std::optional<Lineage>& lineage() const override { return base_->lineage(); }
  const std::filesystem::path& folder() const override { return base_->folder(); }
  int64_t stored_bytes() const override { return base_->stored_bytes(); }
  std::string weights_hash() const override { return base_->weights_hash(); }

  LinearWeights linear(const LinearSpec& spec) const override {
    LinearWeights w = base_->linear(spec);
    if (quant_.weights == WeightFormat::fp16) return w;
    const std::vector<float> values = to_f32(w.weight);
    w.format = quant_.weights;
    if (quant_.activations == ActivationScaling::static_tensor)
      w.input_scale = tensor_from_f32(std::vector<float>{0.02f}, {1});
    if (quant_.weights == WeightFormat::int4_awq) {
      round_int4(values, w);
    } else {
      round_rows(values, w);
    }
    return w;
  }

 private:
  static float amax(const float* x, int64_t count) {
    float largest = 1e-12f;
    for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::fabs(x[i]));
    return largest;
  }

  // fp8 and int8, one scale a row.
  static void round_rows(const std::vector<float>& values, LinearWeights& w) {
    const bool fp8 = w.format == WeightFormat::fp8;
    const NewTensor codes = new_tensor(fp8 ? DType::f8_e4m3 : DType::i8, {w.n, w.k});
    std::vector<float> scales;
    for (int64_t row = 0; row < w.n; ++row) {
      const float* x = values.data() + row * w.k;
      scales.push_back(amax(x, w.k) / (fp8 ? 448.0f : 127.0f));
      for (int64_t i = 0; i < w.k; ++i) {
        const float scaled = x[i] / scales.back();
        codes.as<uint8_t>()[row * w.k + i] =
            fp8 ? e4m3_from_f32(scaled) : static_cast<uint8_t>(static_cast<int8_t>(std::lrint(scaled)));
      }
    }
    w.weight = codes.tensor;
    w.weight_scale = tensor_from_f32(scales, {w.n});
  }

  void round_int4(const std::vector<float>& values, LinearWeights& w) const {
    const NewTensor codes = new_tensor(DType::u8, {w.n, w.k / 2});
    std::vector<float> scales;
    for (int64_t i = 0; i < w.n * w.k; ++i) {
      if (i % group_size_ == 0) scales.push_back(amax(values.data() + i, group_size_) / 7);
      const long q = std::clamp(std::lrint(values[static_cast<size_t>(i)] / scales.back()), -8l, 7l) + 8;
      uint8_t& byte = codes.as<uint8_t>()[i / 2];
      byte = static_cast<uint8_t>(i % 2 == 0 ? q : byte | q << 4);
    }
    w.weight = codes.tensor;
    w.weight_scale = tensor_from_f32(scales, {w.n, w.k / group_size_});
    w.group_size = group_size_;
  }

  std::shared_ptr<const Checkpoint> base_;
  QuantSpec quant_;
  KvScales scales_;
  int64_t group_size_;
};

}  // namespace qg::test
