// Random models in memory: the bytes of every format, and that they are those of the folder that `synth` writes.
#include "quantize/synthetic_checkpoint.h"

#include <gtest/gtest.h>

#include <cstring>

#include "core/hash.h"
#include "model/architecture.h"
#include "model/open_model.h"

namespace qg {
namespace {

ModelTable small_model() {
  ModelShape s;
  s.family = "llama";
  s.layers = 2, s.hidden = 256, s.heads = 4, s.kv_heads = 2, s.head_dim = 64, s.ffn = 384, s.vocab = 512;
  s.max_position = 512;
  return make_model_table(s);
}

SyntheticOptions seed_seven() {
  SyntheticOptions options;
  options.seed = 7;
  return options;
}

// Speeds of random weights are compared over years and machines: the bytes may not change.
TEST(SyntheticCheckpoint, BytesAreTheSameAsEver) {
  const ModelTable table = small_model();
  const struct {
    WeightFormat weights;
    WeightScaling scaling;
    const char* sha256;
  } formats[] = {
      {WeightFormat::fp16, WeightScaling::none, "1afd1d4017aeb671f59a6ee9dbd1aefbd1696e1f5bbb55598e5b7857cfa38585"},
      {WeightFormat::fp8, WeightScaling::tensor, "b763187e833394774633e17439252a25249b214113bde74fa178e55f5bfe8ad5"},
      {WeightFormat::int4_awq, WeightScaling::group,
       "19f106cfa16050bec6d533081ee0a5415ed088f37c5a9b6e55eccd2a3e06b002"},
      {WeightFormat::int8_sq, WeightScaling::channel,
       "1d96b58c94363aa5c4317aac1b6a6361de66f14acf1cefcc51805dd24092da27"}};
  for (const auto& format : formats) {
    QuantSpec quant;
    quant.weights = format.weights;
    quant.weight_scaling = format.scaling;
    quant.group_size = 128;
    const auto checkpoint = make_synthetic_checkpoint(table, quant, seed_seven());
    const LinearWeights w = checkpoint->linear(table.linear(LinearRole::down, 1));
    Sha256 hash;
    hash.update(w.weight.data, w.weight.bytes());
    if (!w.weight_scale.empty()) hash.update(w.weight_scale.data, w.weight_scale.bytes());
    EXPECT_EQ(hash.hex(), format.sha256) << to_string(format.weights);
  }
}

TEST(SyntheticCheckpoint, SixteenBitTensorsAreThoseOfTheFolder) {
  const ModelTable table = small_model();
  const std::filesystem::path folder = std::filesystem::path(::testing::TempDir()) / "synthetic_checkpoint_test";
  std::filesystem::remove_all(folder);
  write_synthetic_model(table, hf_rules_of_family("llama"), seed_seven(), folder);
  const auto stored = open_model(folder);
  const auto made = make_synthetic_checkpoint(table, {}, seed_seven());
  const auto expect_same = [](const Tensor& a, const Tensor& b, const std::string& name) {
    ASSERT_EQ(a.bytes(), b.bytes()) << name;
    EXPECT_EQ(std::memcmp(a.data, b.data, a.bytes()), 0) << name;
  };
  for (const TensorSpec& spec : table.tensors) expect_same(stored->tensor(spec), made->tensor(spec), spec.hf_name);
  for (const LinearSpec& spec : table.linears)
    expect_same(stored->linear(spec).weight, made->linear(spec).weight, spec.trtllm_name);
  std::filesystem::remove_all(folder);
}

}  // namespace
}  // namespace qg
