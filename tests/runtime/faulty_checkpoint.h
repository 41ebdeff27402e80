#pragma once
// A checkpoint that says something else than the one it stands for, so that a test can show what it finds.
#include <functional>
#include <memory>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace qg::test {

class FaultyCheckpoint : public Checkpoint {
 public:
  using LinearFault = std::function<void(const LinearSpec& spec, LinearWeights& weights)>;
  using TensorFault = std::function<void(const TensorSpec& spec, Tensor& tensor)>;

  explicit FaultyCheckpoint(std::shared_ptr<const Checkpoint> right, LinearFault linear = {}, TensorFault tensor = {})
      : right_(std::move(right)), linear_(std::move(linear)), tensor_(std::move(tensor)) {}

  Layout layout() const override { return right_->layout(); }
  const ModelTable& table() const override { return right_->table(); }
  const QuantSpec& quant() const override { return right_->quant(); }
  DType dtype() const override { return right_->dtype(); }
  const KvScales& kv_scales() const override { return right_->kv_scales(); }
  const std::optional<Lineage>& lineage() const override { return right_->lineage(); }
  const std::filesystem::path& folder() const override { return right_->folder(); }
  int64_t stored_bytes() const override { return right_->stored_bytes(); }
  std::string weights_hash() const override { return right_->weights_hash(); }
  Tensor tensor(const TensorSpec& spec) const override {
    Tensor tensor = right_->tensor(spec);
    if (tensor_) tensor_(spec, tensor);
    return tensor;
  }
  LinearWeights linear(const LinearSpec& spec) const override {
    LinearWeights weights = right_->linear(spec);
    if (linear_) linear_(spec, weights);
    return weights;
  }

 private:
  std::shared_ptr<const Checkpoint> right_;
  LinearFault linear_;
  TensorFault tensor_;
};

// All values times a factor, or one of them.
inline Tensor scaled(const Tensor& tensor, float factor, int64_t only = -1) {
  std::vector<float> values = to_f32(tensor);
  for (size_t i = 0; i < values.size(); ++i)
    if (only < 0 || static_cast<int64_t>(i) == only) values[i] *= factor;
  return tensor_from_f32(values, tensor.shape, tensor.dtype);
}

struct Fault {
  const char* name;
  FaultyCheckpoint::LinearFault linear;
  FaultyCheckpoint::TensorFault tensor;
  bool static_only = false;
};

// Errors of the sizes that a kernel with a wrong scale, a forgotten channel or a wrong norm makes, each in one place of
// the second layer.
inline std::vector<Fault> faults() {
  std::vector<Fault> faults;
  for (const LinearRole role :
       {LinearRole::qkv, LinearRole::attention_output, LinearRole::gate, LinearRole::up, LinearRole::down})
    faults.push_back({"a weight scale is off by 5 %",
                      [role](const LinearSpec& spec, LinearWeights& w) {
                        if (spec.layer == 1 && spec.role == role) w.weight_scale = scaled(w.weight_scale, 1.05f);
                      },
                      {}});
  for (const TensorRole role : {TensorRole::attention_norm, TensorRole::mlp_norm})
    faults.push_back({"one weight of a norm is off by 5 %", {}, [role](const TensorSpec& spec, Tensor& tensor) {
                        if (spec.layer == 1 && spec.role == role) tensor = scaled(tensor, 1.05f, 17);
                      }});
  for (const LinearRole role : {LinearRole::qkv, LinearRole::attention_output, LinearRole::down})
    faults.push_back({"a static scale is off by 1 %",
                      [role](const LinearSpec& spec, LinearWeights& w) {
                        if (spec.layer == 1 && spec.role == role) w.input_scale = scaled(w.input_scale, 1.01f);
                      },
                      {},
                      true});
  return faults;
}

}  // namespace qg::test
