// Folders of every layout against a reader that shares no code with the program: tests/quantize/read_layouts.py.
#include <cstdio>

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

  void expect_reads_alike(const fs::path& model) const {
    const fs::path expected = folder_ / "expected.safetensors";
    write_expected(model, expected);
    const std::string command = "'" + python_.string() + "' '" + QG_SOURCE_DIR + "/tests/quantize/read_layouts.py' '" +
                                model.string() + "' '" + expected.string() + "' 2>&1";
    FILE* pipe = popen(command.c_str(), "r");
    ASSERT_NE(pipe, nullptr);
    std::string said;
    char buffer[512];
    while (fgets(buffer, sizeof buffer, pipe)) said += buffer;
    EXPECT_EQ(pclose(pipe), 0) << model << ": " << said;
    EXPECT_NE(said.find("0 differ"), std::string::npos) << model << ": " << said;
  }

  fs::path python_;
};

TEST_F(LayoutsReader, Modelopt) {
  expect_reads_alike(quantized("fp8", recipe(W::fp8), Layout::modelopt, KvFormat::fp8));
  expect_reads_alike(quantized("int4", recipe(W::int4_awq), Layout::modelopt));
  expect_reads_alike(quantized("int8", recipe(W::int8_sq, A::static_tensor), Layout::modelopt));
}

TEST_F(LayoutsReader, CompressedTensors) {
  expect_reads_alike(quantized("fp8", recipe(W::fp8), Layout::compressed_tensors, KvFormat::fp8));
  expect_reads_alike(quantized("dynamic", recipe(W::fp8, A::dynamic_token), Layout::compressed_tensors));
  expect_reads_alike(quantized("int8", recipe(W::int8_sq), Layout::compressed_tensors));
  expect_reads_alike(quantized("int4", recipe(W::int4_awq), Layout::compressed_tensors));
  expect_reads_alike(quantized("zeros", asymmetric(), Layout::compressed_tensors));
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

// The reader itself notices a nibble that is not where it belongs.
TEST_F(LayoutsReader, NoticesOneWrongCode) {
  const fs::path model = quantized("int4", recipe(W::int4_awq), Layout::compressed_tensors);
  const fs::path expected = folder_ / "expected.safetensors";
  write_expected(model, expected);
  const TensorSet stored = TensorSet::open_folder(model);
  const StoredTensor* packed = stored.find("model.layers.1.mlp.up_proj.weight_packed");
  ASSERT_NE(packed, nullptr);
  FILE* file = fopen((model / "model.safetensors").c_str(), "r+b");
  ASSERT_NE(file, nullptr);
  fseek(file, static_cast<long>(packed->offset + 5), SEEK_SET);
  const int byte = fgetc(file);
  fseek(file, static_cast<long>(packed->offset + 5), SEEK_SET);
  fputc(byte ^ 0x10, file);
  fclose(file);
  const std::string command = "'" + python_.string() + "' '" + QG_SOURCE_DIR + "/tests/quantize/read_layouts.py' '" +
                              model.string() + "' '" + expected.string() + "' >/dev/null 2>&1";
  EXPECT_NE(std::system(command.c_str()), 0);
}

}  // namespace
}  // namespace qg
