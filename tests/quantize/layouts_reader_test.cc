// Folders of every layout against a reader that shares no code with the program: tests/quantize/read_layouts.py.
#include <cstdio>
#include <fstream>

#include "checkpoint/linear_parts.h"
#include "checkpoint/safetensors.h"
#include "runtime/cpu_layer.h"
#include "tests/quantize/tiny_model.h"

namespace qg {
namespace {

namespace fs = std::filesystem;
using W = WeightFormat;
using A = ActivationScaling;

class LayoutsReader : public test::TinyModel {
 protected:
  void SetUp() override {
    python_ = fs::path(QG_SOURCE_DIR) / ".venv/bin/python";
    ASSERT_TRUE(fs::exists(python_)) << "no .venv with numpy: scripts/setup.sh makes it";
    TinyModel::SetUp();
  }

  // What our loader makes of a folder, in the form that the script asks for.
  void write_expected(const fs::path& model, const fs::path& out) const {
    const auto checkpoint = open_model(model);
    std::vector<std::pair<std::string, Tensor>> tensors;
    const ModelTable& table = checkpoint->table();
    for (const TensorSpec& spec : table.tensors)
      tensors.emplace_back(spec.hf_name, tensor_from_f32(to_f32(checkpoint->tensor(spec)), spec.shape));
    for (const LinearSpec& spec : table.linears) add_linear(*checkpoint, spec, tensors);
    if (checkpoint->quant().fixed_kv) {
      std::vector<float> k, v;
      for (const KvScale& scale : checkpoint->kv_scales().of(*checkpoint->quant().fixed_kv)) {
        k.push_back(scale.k);
        v.push_back(scale.v);
      }
      tensors.emplace_back("kv.k", tensor_from_f32(k, {table.shape.layers}));
      tensors.emplace_back("kv.v", tensor_from_f32(v, {table.shape.layers}));
    }
    std::vector<TensorEntry> entries;
    for (const auto& [name, tensor] : tensors) entries.push_back({name, tensor.dtype, tensor.shape});
    SafetensorsWriter file(out, entries);
    for (const auto& [name, tensor] : tensors) file.write(name, tensor);
    file.finish();
  }

  static void add_linear(const Checkpoint& checkpoint, const LinearSpec& spec,
                         std::vector<std::pair<std::string, Tensor>>& tensors) {
    const CpuLinear linear = load_cpu_linear(checkpoint, spec);
    std::vector<float> values = linear.dequantized();
    const Tensor& prequant = linear.weights.prequant_scale;
    for (size_t i = 0; !prequant.empty() && i < values.size(); ++i)
      values[i] *= prequant.as<float>()[i % static_cast<size_t>(spec.k)];
    const float* row = values.data();
    for (const LinearSpec::Part& part : spec.parts) {
      const std::span<const float> rows(row, static_cast<size_t>(part.rows * spec.k));
      tensors.emplace_back(part.hf_name + ".weight", tensor_from_f32(rows, {part.rows, spec.k}));
      if (!linear.weights.input_scale.empty())
        tensors.emplace_back(part.hf_name + ".input_scale", linear.weights.input_scale);
      row += part.rows * spec.k;
    }
  }

  // The script's exit code and what it says of a folder and of what our loader made of it.
  std::pair<int, std::string> read_by_description(const fs::path& model, const fs::path& expected) const {
    const std::string command = "'" + python_.string() + "' '" + QG_SOURCE_DIR + "/tests/quantize/read_layouts.py' '" +
                                model.string() + "' '" + expected.string() + "' 2>&1";
    FILE* pipe = popen(command.c_str(), "r");
    if (!pipe) return {-1, "no shell"};
    std::string said;
    char buffer[512];
    while (fgets(buffer, sizeof buffer, pipe)) said += buffer;
    return {pclose(pipe), said};
  }

  void expect_reads_alike(const fs::path& model) const {
    const fs::path expected = folder_ / "expected.safetensors";
    write_expected(model, expected);
    const auto [code, said] = read_by_description(model, expected);
    EXPECT_EQ(code, 0) << model << ": " << said;
    EXPECT_NE(said.find(", 0 differ"), std::string::npos) << model << ": " << said;
  }

  // One bit of a tensor is turned after our loader has read it: the script says which tensor is not as it was read.
  void expect_notices(const fs::path& model, const std::string& tensor, int64_t byte, int bit,
                      const std::string& named) const {
    const fs::path expected = folder_ / "expected.safetensors";
    write_expected(model, expected);
    const fs::path one = model / "model.safetensors", path = fs::exists(one) ? one : model / "rank0.safetensors";
    int64_t at = byte;
    {
      const SafetensorsFile file(path);
      const StoredTensor* stored = file.find(tensor);
      ASSERT_NE(stored, nullptr) << tensor;
      ASSERT_LT(byte, stored->bytes);
      at += stored->offset;
    }
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    const auto turn = [&] {
      file.seekg(at);
      const int was = file.get();
      file.seekp(at);
      file.put(static_cast<char>(was ^ (1 << bit)));
      file.flush();
      ASSERT_TRUE(file.good());
    };
    turn();
    const auto [code, said] = read_by_description(model, expected);
    EXPECT_NE(code, 0) << tensor;
    EXPECT_NE(said.find(named), std::string::npos) << tensor << ": " << said;
    turn();
  }

  fs::path python_;
};

TEST_F(LayoutsReader, Modelopt) {
  const Recipe fp8 = recipe(W::fp8), int4 = recipe(W::int4_awq), int8 = recipe(W::int8_sq, A::static_tensor);
  expect_reads_alike(quantized("fp8", fp8, Layout::modelopt));
  expect_reads_alike(quantized("fp8-kv", fp8, Layout::modelopt, KvFormat::fp8));
  expect_reads_alike(quantized("int4", int4, Layout::modelopt));
  expect_reads_alike(quantized("int4-kv", int4, Layout::modelopt, KvFormat::fp8));
  expect_reads_alike(quantized("int8", int8, Layout::modelopt));
  expect_reads_alike(quantized("int8-kv", int8, Layout::modelopt, KvFormat::fp8));
}

TEST_F(LayoutsReader, CompressedTensors) {
  expect_reads_alike(quantized("fp8", recipe(W::fp8), Layout::compressed_tensors));
  expect_reads_alike(quantized("fp8-kv", recipe(W::fp8), Layout::compressed_tensors, KvFormat::fp8));
  expect_reads_alike(quantized("dynamic", recipe(W::fp8, A::dynamic_token), Layout::compressed_tensors));
  expect_reads_alike(quantized("int8", recipe(W::int8_sq), Layout::compressed_tensors));
  expect_reads_alike(quantized("static", recipe(W::int8_sq, A::static_tensor), Layout::compressed_tensors));
  expect_reads_alike(quantized("int4", recipe(W::int4_awq), Layout::compressed_tensors));
  expect_reads_alike(quantized("zeros", asymmetric(), Layout::compressed_tensors));
  expect_reads_alike(quantized("zeros-kv", asymmetric(), Layout::compressed_tensors, KvFormat::fp8));
}

TEST_F(LayoutsReader, AutoAwq) {
  expect_reads_alike(quantized("awq", asymmetric(), Layout::autoawq));
}

TEST_F(LayoutsReader, TensorRtLlm) {
  for (int64_t ranks : {1, 2, 4}) {
    const std::string n = std::to_string(ranks);
    expect_reads_alike(quantized("fp16-" + n, recipe(W::fp16), Layout::trtllm, {}, ranks));
    expect_reads_alike(quantized("fp8-" + n, recipe(W::fp8), Layout::trtllm, KvFormat::fp8, ranks));
    expect_reads_alike(quantized("dynamic-" + n, recipe(W::fp8, A::dynamic_token), Layout::trtllm, {}, ranks));
    expect_reads_alike(quantized("int4-" + n, recipe(W::int4_awq), Layout::trtllm, {}, ranks));
    expect_reads_alike(quantized("int8-" + n, recipe(W::int8_sq), Layout::trtllm, KvFormat::int8, ranks));
    expect_reads_alike(quantized("static-" + n, recipe(W::int8_sq, A::static_tensor), Layout::trtllm, {}, ranks));
  }
}

// Every weight format with every KV format, the latter as `convert --kv` makes them: the two-checkpoint rule.
TEST_F(LayoutsReader, TensorRtLlmWithEachKvFormat) {
  const std::pair<const char*, Recipe> recipes[] = {
      {"fp16", recipe(W::fp16)},     {"fp8", recipe(W::fp8)},      {"dynamic", recipe(W::fp8, A::dynamic_token)},
      {"int4", recipe(W::int4_awq)}, {"int8", recipe(W::int8_sq)}, {"static", recipe(W::int8_sq, A::static_tensor)}};
  for (const auto& [name, r] : recipes) {
    const fs::path plain = quantized(name, r, Layout::trtllm);
    expect_reads_alike(plain);
    for (KvFormat kv : {KvFormat::fp8, KvFormat::int8})
      expect_reads_alike(converted(plain, std::string(name) + "-" + std::string(to_string(kv)), Layout::trtllm, kv));
  }
}

// The reader itself notices a code, a scale or a dtype that is not where it belongs, in every layout.
TEST_F(LayoutsReader, NoticesOneWrongBit) {
  const std::string hf = "model.layers.1.mlp.up_proj", trt = "transformer.layers.1.mlp.gate";
  const Recipe fp8 = recipe(W::fp8), int4 = recipe(W::int4_awq), static8 = recipe(W::int8_sq, A::static_tensor);
  const std::string weight = hf + ".weight: differs", scale = hf + ".input_scale: differs";

  const fs::path c4 = quantized("c4", int4, Layout::compressed_tensors);
  expect_notices(c4, hf + ".weight_packed", 5, 4, weight);
  expect_notices(quantized("cz", asymmetric(), Layout::compressed_tensors), hf + ".weight_zero_point", 3, 1, weight);
  const fs::path c8 = quantized("c8", fp8, Layout::compressed_tensors, KvFormat::fp8);
  expect_notices(c8, hf + ".weight", 77, 6, weight);
  expect_notices(c8, "model.layers.1.self_attn.v_scale", 2, 6, "kv.v: differs");

  const fs::path m8 = quantized("m8", fp8, Layout::modelopt, KvFormat::fp8);
  expect_notices(m8, hf + ".weight_scale", 2, 6, weight);
  expect_notices(m8, hf + ".input_scale", 2, 6, scale);
  expect_notices(m8, "model.layers.0.self_attn.k_proj.k_scale", 2, 6, "kv.k: differs");
  expect_notices(quantized("m4", int4, Layout::modelopt), hf + ".weight", 9, 7, weight);
  expect_notices(quantized("ms", static8, Layout::modelopt), hf + ".pre_quant_scale", 1, 2, weight);

  const fs::path t8 = quantized("t8", fp8, Layout::trtllm, KvFormat::fp8, 2);
  expect_notices(t8, trt + ".weight", 77, 6, weight);
  expect_notices(t8, trt + ".activation_scaling_factor", 2, 6, "AssertionError");  // the other rank's differs from it
  expect_notices(t8, "transformer.layers.1.attention.kv_cache_scaling_factor", 2, 6, "AssertionError");
  expect_notices(quantized("t4", int4, Layout::trtllm), trt + ".weight", 9, 7, weight);
  const fs::path ti = quantized("ti", recipe(W::int8_sq), Layout::trtllm, KvFormat::int8);
  expect_notices(ti, "transformer.layers.1.mlp.proj.smoother", 2, 6, "model.layers.1.mlp.down_proj.weight: differs");
  expect_notices(ti, "transformer.layers.1.attention.kv_cache_scaling_factor", 2, 6, "kv.k: differs");
  expect_notices(quantized("ts", static8, Layout::trtllm), trt + ".weights_scaling_factor", 6, 6, weight);
  expect_notices(quantized("td", recipe(W::fp8, A::dynamic_token), Layout::trtllm), trt + ".per_channel_scale", 6, 6,
                 weight);
}

}  // namespace
}  // namespace qg
