// The TensorRT-LLM layout against files that scripts/golden/make_trtllm_golden.py packed with numpy.
#include "checkpoint/trtllm.h"

#include <cmath>
#include <functional>

#include "checkpoint/kv_scales.h"
#include "checkpoint/strict_json.h"
#include "checkpoint/trtllm_linear.h"
#include "model/open_model.h"
#include "tests/checkpoint/fixtures.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

const char* const kCases[] = {"fp16", "fp8", "fp8_per_token", "int4_awq", "int8_static", "int8_per_token"};

Tensor part(const TensorSet& set, const std::string& name) {
  return set.find(name) ? set.get(name) : Tensor();
}

// A layer of the golden file, in canonical form.
LinearWeights canonical(const TensorSet& set, const std::string& name, const LinearSpec& spec, const QuantSpec& quant) {
  const std::string prefix = name + "/" + spec.trtllm_name + ".";
  LinearWeights weights;
  weights.format = quant.weights;
  weights.n = spec.n;
  weights.k = spec.k;
  weights.weight = part(set, prefix + "weight");
  weights.weight_scale = part(set, prefix + "weight_scale");
  weights.input_scale = part(set, prefix + "input_scale");
  weights.prequant_scale = part(set, prefix + "prequant_scale");
  weights.group_size = quant.group_size;
  return weights;
}

void expect_same(const Tensor& a, const Tensor& b, const std::string& what) {
  SCOPED_TRACE(what);
  ASSERT_EQ(a.empty(), b.empty());
  if (a.empty()) return;
  EXPECT_EQ(to_string(a.dtype), to_string(b.dtype));
  EXPECT_EQ(a.shape, b.shape);
  EXPECT_TRUE(bytes_of(a) == bytes_of(b));
}

void expect_same(const LinearWeights& a, const LinearWeights& b, const std::string& what) {
  EXPECT_EQ(a.format, b.format) << what;
  EXPECT_EQ(a.group_size, b.group_size) << what;
  expect_same(a.weight, b.weight, what + " weight");
  expect_same(a.weight_scale, b.weight_scale, what + " weight_scale");
  expect_same(a.input_scale, b.input_scale, what + " input_scale");
  expect_same(a.prequant_scale, b.prequant_scale, what + " prequant_scale");
  expect_same(a.zero_point, b.zero_point, what + " zero_point");
}

WriterOptions options_like(const Checkpoint& model, const fs::path& out) {
  WriterOptions options;
  options.out = out;
  options.table = model.table();
  options.quant = model.quant();
  options.dtype = model.dtype();
  options.architecture = architecture_of_family(model.table().shape.family);
  return options;
}

class TrtllmGolden : public testing::TestWithParam<const char*> {
 protected:
  fs::path folder() const { return kGolden / "trtllm" / GetParam(); }
  const TensorSet golden_ = TensorSet::open_file(kGolden / "trtllm" / "canonical.safetensors");
};

TEST_P(TrtllmGolden, ReadsEveryLayer) {
  const auto model = open_model(folder());
  EXPECT_EQ(model->layout(), Layout::trtllm);
  EXPECT_EQ(model->table().linears.size(), 5u);
  for (const LinearSpec& spec : model->table().linears)
    expect_same(model->linear(spec), canonical(golden_, GetParam(), spec, model->quant()), spec.trtllm_name);
}

TEST_P(TrtllmGolden, WritesTheSameFile) {
  const TestFolder out;
  const auto model = open_model(folder());
  const auto writer = create_checkpoint(options_like(*model, out / "made"));
  for (const TensorSpec& spec : model->table().tensors) writer->write(spec, model->tensor(spec));
  for (const LinearSpec& spec : model->table().linears)
    writer->write(spec, canonical(golden_, GetParam(), spec, model->quant()));
  if (model->quant().fixed_kv) {
    const std::string prefix = std::string(GetParam()) + "/kv.";
    const KvScale scale{to_f32(golden_.get(prefix + "k")).at(0), to_f32(golden_.get(prefix + "v")).at(0)};
    KvScales scales;
    if (model->quant().fixed_kv == KvFormat::fp8) scales.fp8.push_back(scale);
    if (model->quant().fixed_kv == KvFormat::int8) scales.int8.push_back(scale);
    writer->set_kv_scales(scales);
  }
  writer->finish();
  EXPECT_TRUE(read_file(out / "made/rank0.safetensors") == read_file(folder() / "rank0.safetensors"));
  EXPECT_FALSE(fs::exists(out / "made/kv_scales.safetensors"));
}

TEST_P(TrtllmGolden, WritesTheSameConfig) {
  const Json wanted = read_json(folder() / "config.json");
  TrtllmConfig config = parse_trtllm_config(wanted, "config.json");
  const Json made = make_trtllm_config(config);
  for (const auto& [key, value] : wanted.items())
    if (key != "quantization") {
      EXPECT_EQ(nlohmann::json(made.at(key)), nlohmann::json(value)) << key;  // whatever the order of keys
    }
  for (const auto& [key, value] : wanted["quantization"].items()) EXPECT_EQ(made["quantization"].at(key), value) << key;
  EXPECT_EQ(parse_trtllm_config(made, "made").quant, config.quant);
  EXPECT_EQ(parse_trtllm_config(made, "made").shape, config.shape);
}

INSTANTIATE_TEST_SUITE_P(Cases, TrtllmGolden, testing::ValuesIn(kCases),
                         [](const auto& test) { return std::string(test.param); });

TEST(Trtllm, QuantizationOfEachGolden) {
  const auto quant = [](const char* name) { return open_model(kGolden / "trtllm" / name)->quant(); };
  EXPECT_EQ(quant("fp16").weights, WeightFormat::fp16);
  EXPECT_EQ(quant("fp8").activations, ActivationScaling::static_tensor);
  EXPECT_EQ(quant("fp8").fixed_kv, KvFormat::fp8);
  EXPECT_EQ(quant("fp8_per_token").weight_scaling, WeightScaling::channel);
  EXPECT_EQ(quant("int4_awq").group_size, 16);
  EXPECT_TRUE(quant("int4_awq").prequant_scales);
  EXPECT_EQ(quant("int8_static").activations, ActivationScaling::static_tensor);
  EXPECT_EQ(quant("int8_per_token").activations, ActivationScaling::dynamic_token);
  EXPECT_EQ(open_model(kGolden / "trtllm/int8_per_token")->kv_scales().int8.at(0).k, 0.75f);
  EXPECT_EQ(open_model(kGolden / "trtllm/int4_awq")->table().shape.family, "mistral");
}

TEST(Trtllm, Int4PackingGoesBothWays) {
  NewTensor made = new_tensor(DType::u8, {6, 5});
  for (int i = 0; i < 30; ++i) made.as<uint8_t>()[i] = static_cast<uint8_t>(i * 37 + 11);
  const Tensor packed = pack_trtllm_int4(made.tensor);
  EXPECT_EQ(packed.shape, (Shape{3, 10}));
  expect_same(unpack_trtllm_int4(packed), made.tensor, "there and back");
  // Row 0, column 1 (u = the high nibble of byte 0) is the low nibble of packed byte (0, 1), as two's complement.
  const int u = made.as<uint8_t>()[0] >> 4;
  EXPECT_EQ(packed.as<uint8_t>()[1] & 15, (u - 8) & 15);
}

// What the layout cannot hold is refused before a folder exists.
TEST(Trtllm, RefusesRecipes) {
  const TestFolder out;
  const auto refused = [&](QuantSpec quant, const std::string& reason) {
    WriterOptions options = options_like(*open_model(kGolden / "trtllm/fp16"), out / "made");
    options.quant = quant;
    expect_contains(error_of([&] { create_checkpoint(options); }), reason);
    EXPECT_TRUE(fs::is_empty(out.path())) << reason;
  };
  using W = WeightScaling;
  using A = ActivationScaling;
  const auto spec = [](WeightFormat f, W w, A a) {
    QuantSpec q;
    q.weights = f, q.weight_scaling = w, q.activations = a;
    return q;
  };
  refused(spec(WeightFormat::fp8, W::channel, A::static_tensor), "scale per channel and static activations");
  refused(spec(WeightFormat::fp8, W::tensor, A::none), "16-bit activations");
  refused(spec(WeightFormat::fp16, W::none, A::dynamic_token), "fp16 weights with quantized activations");
  refused(spec(WeightFormat::int8_sq, W::tensor, A::dynamic_token), "without a scale per output channel");
  QuantSpec awq = spec(WeightFormat::int4_awq, W::group, A::none);
  refused(awq, "without groups");
  awq.group_size = 128;
  refused(awq, "group size 128 does not divide 32");
  awq.group_size = 16;
  awq.zero_points = true;
  refused(awq, "zero points");
}

TEST(Trtllm, RefusesLayers) {
  const auto model = open_model(kGolden / "trtllm/int8_per_token");
  const LinearSpec &qkv = model->table().linear(LinearRole::qkv, 0),
                   &dense = model->table().linear(LinearRole::attention_output, 0);
  const auto refused = [&](const LinearSpec& spec, auto change, const std::string& reason) {
    LinearWeights weights = model->linear(spec);
    change(weights);
    expect_contains(error_of([&] { encode_trtllm_linear(spec, weights, model->quant(), DType::f16); }), reason);
  };
  const Tensor ones = tensor_from_f32(std::vector<float>(32, 1.0f), {32});
  refused(
      qkv, [&](LinearWeights& w) { w.prequant_scale = ones; }, "folded into the norm");
  refused(
      qkv, [&](LinearWeights& w) { w.input_scale = tensor_from_f32(std::vector<float>{1}, {1}); },
      "static input scale");
  refused(
      qkv, [&](LinearWeights& w) { w.zero_point = ones; }, "symmetric");
  refused(
      qkv, [&](LinearWeights& w) { w.format = WeightFormat::fp8; }, "weights are fp8");
  refused(
      qkv, [&](LinearWeights& w) { w.weight_scale = {}; }, "weight scale is missing");
  refused(
      dense, [&](LinearWeights& w) { w.prequant_scale = tensor_from_f32(std::vector<float>(32, 0.0f), {32}); },
      "finite and above 0");
  refused(
      dense, [&](LinearWeights& w) { w.weight_scale = tensor_from_f32(std::vector<float>(32, NAN), {32}); },
      "finite and above 0");
}

TEST(Trtllm, OneScaleBecomesOnePerRowWhenDynamic) {
  const auto model = open_model(kGolden / "trtllm/fp8");
  const LinearSpec& spec = model->table().linear(LinearRole::down, 0);
  LinearWeights weights = model->linear(spec);
  weights.input_scale = {};
  QuantSpec quant = model->quant();
  quant.activations = ActivationScaling::dynamic_token;
  const auto tensors = encode_trtllm_linear(spec, weights, quant, DType::f16);
  ASSERT_EQ(tensors.size(), 2u);
  EXPECT_EQ(tensors[1].first, spec.trtllm_name + ".per_channel_scale");
  EXPECT_EQ(to_f32(tensors[1].second),
            std::vector<float>(static_cast<size_t>(spec.n), to_f32(weights.weight_scale)[0]));
}

// Changes a copy of a golden folder and expects that it is refused.
void expect_refused(const char* name, const std::function<void(Json&)>& change, const std::string& reason) {
  const TestFolder out;
  fs::copy(kGolden / "trtllm" / name, out / "m");
  Json config = read_json(out / "m/config.json");
  change(config);
  write_file(out / "m/config.json", config.dump());
  expect_contains(error_of([&] { open_model(out / "m"); }), reason);
}

TEST(Trtllm, RefusesConfigs) {
  expect_refused(
      "fp8", [](Json& c) { c["mapping"]["tp_size"] = 2; }, "\"world_size\" is 1, but \"tp_size\" is 2");
  expect_refused(
      "fp8",
      [](Json& c) {
        c["mapping"] = {{"world_size", 2}, {"pp_size", 2}};
      },
      "\"pp_size\" is 2");
  expect_refused(
      "fp8",
      [](Json& c) {
        c["mapping"] = {{"world_size", 2}, {"tp_size", 2}};
      },
      "rank1.safetensors");
  expect_refused(
      "fp8",
      [](Json& c) {
        c["mapping"] = {{"world_size", 3}, {"tp_size", 3}};
      },
      "3 GPUs cannot share 2 query heads");
  expect_refused(
      "fp8", [](Json& c) { c["quantization"]["quant_algo"] = "W4A8_AWQ"; }, "\"W4A8_AWQ\", which is not read");
  expect_refused(
      "fp8", [](Json& c) { c["quantization"]["kv_cache_quant_algo"] = "NVFP4"; }, "\"NVFP4\"");
  expect_refused(
      "fp8", [](Json& c) { c["quantization"]["quant_algo"] = nullptr; }, "should be F16");
  expect_refused(
      "fp8", [](Json& c) { c["quantization"]["kv_cache_quant_algo"] = nullptr; }, "not part of this architecture");
  expect_refused(
      "fp8_per_token", [](Json& c) { c["quantization"]["kv_cache_quant_algo"] = "FP8"; },
      "kv_cache_scaling_factor is missing");
  expect_refused(
      "int4_awq", [](Json& c) { c["quantization"]["group_size"] = 32; }, "does not divide 48");
  expect_refused(
      "int4_awq", [](Json& c) { c["quantization"]["has_zero_point"] = true; }, "has_zero_point");
  expect_refused(
      "fp16", [](Json& c) { c["dtype"] = "bfloat16"; }, "is F16, should be BF16");
  expect_refused(
      "fp16", [](Json& c) { c["dtype"] = "int8"; }, "\"dtype\" is \"int8\"");
}

}  // namespace
}  // namespace qg
