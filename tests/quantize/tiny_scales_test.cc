// Groups of 4-bit weights so small that F16 rounds their scale to 0, which no reader takes: layouts that store F16
// scales must get the job done all the same, with an error of such a weight below what F16 can tell apart.
#include <cmath>

#include "checkpoint/safetensors.h"
#include "quantize/tiny_scales.h"
#include "tests/quantize/tiny_model.h"

namespace qg {
namespace {

namespace fs = std::filesystem;
using W = WeightFormat;

constexpr int64_t kGroup = 32;
constexpr float kTiny = 1e-7f;  // of weights of about 0.1

bool is_tiny(int64_t row, int64_t column) {
  return row % 5 == 0 && column < kGroup;
}

// The first group of every fifth row of every linear layer is tiny.
class TinyScales : public test::TinyModel {
 protected:
  void SetUp() override {
    TinyModel::SetUp();
    const TensorSet base = TensorSet::open_folder(folder_ / "base");
    fs::copy(folder_ / "base", folder_ / "tiny");
    std::vector<TensorEntry> entries;
    for (const std::string& name : base.names()) entries.push_back(*base.find(name));
    for (TensorEntry& entry : entries) entry.dtype = DType::f32;  // F16 would make them 0
    SafetensorsWriter file(folder_ / "tiny/model.safetensors", entries);
    for (const std::string& name : base.names()) {
      const Tensor tensor = base.get(name);
      std::vector<float> values = to_f32(tensor);
      if (name.ends_with("_proj.weight"))
        for (size_t i = 0; i < values.size(); ++i)
          if (is_tiny(static_cast<int64_t>(i) / tensor.shape[1], static_cast<int64_t>(i) % tensor.shape[1]))
            values[i] *= kTiny;
      file.write(name, tensor_from_f32(values, tensor.shape));
    }
    file.finish();
    base_ = open_model(folder_ / "tiny");
  }
};

TEST_F(TinyScales, LayoutsWithF16ScalesHoldThem) {
  const std::vector<float> base = logits(folder_ / "tiny");
  const double wide = relative_error(logits(quantized("t", recipe(W::int4_awq), Layout::trtllm)), base);
  const std::tuple<const char*, Recipe, Layout> outputs[] = {
      {"a", asymmetric(), Layout::autoawq},
      {"c", recipe(W::int4_awq), Layout::compressed_tensors},
      {"cz", asymmetric(), Layout::compressed_tensors},
  };
  for (const auto& [name, r, layout] : outputs) {
    const auto model = open_model(quantized(name, r, layout));
    EXPECT_EQ(model->dtype(), DType::f16) << name;
    EXPECT_LT(relative_error(logits(folder_ / name), base), 1.5 * wide) << name;
    const LinearWeights down = model->linear(model->table().linear(LinearRole::down, 0));
    const std::vector<float> scales = to_f32(down.weight_scale);
    for (int64_t row = 0; row < down.n; row += 5)
      EXPECT_EQ(scales[static_cast<size_t>(row * (down.k / kGroup))], std::ldexp(1.0f, -24)) << name << " row " << row;
  }
}

// Two rows of two groups of 32, the first of each row too small for F16: row 0 with codes around 8, row 1 with zero
// points.
TEST(RaiseTinyScales, MovesAWeightByHalfAStepAtMost) {
  constexpr float kStep = 0x1p-24f;
  for (const float tiny : {kStep / 2, kStep / 3, 1e-10f}) {
    for (const int zero : {8, 0, 15}) {
      LinearWeights w;
      w.format = W::int4_awq;
      w.n = 2;
      w.k = 2 * kGroup;
      w.group_size = kGroup;
      const NewTensor codes = new_tensor(DType::u8, {w.n, w.k / 2}), zeros = new_tensor(DType::u8, {w.n, 2});
      for (int i = 0; i < w.n * w.k / 2; ++i)
        codes.as<uint8_t>()[i] = static_cast<uint8_t>((2 * i) % 16 | (2 * i + 1) % 16 << 4);
      std::fill_n(zeros.as<uint8_t>(), 4, static_cast<uint8_t>(zero));
      w.weight = codes.tensor;
      if (zero != 8) w.zero_point = zeros.tensor;
      w.weight_scale = tensor_from_f32(std::vector<float>{tiny, 0.5f, tiny, 0.25f}, {2, 2});
      LinearWeights raised = w;
      raise_tiny_scales(raised);
      EXPECT_EQ(to_f32(raised.weight_scale), (std::vector<float>{kStep, 0.5f, kStep, 0.25f}));
      const auto value = [&](const LinearWeights& of, int64_t row, int64_t column) {
        const int byte = of.weight.as<uint8_t>()[row * w.k / 2 + column / 2];
        const int code = column % 2 == 0 ? byte & 15 : byte >> 4;
        return static_cast<float>(code - zero) * of.weight_scale.as<float>()[row * 2 + column / kGroup];
      };
      for (int64_t row = 0; row < w.n; ++row)
        for (int64_t column = 0; column < w.k; ++column) {
          const float gap = std::fabs(value(raised, row, column) - value(w, row, column));
          EXPECT_LE(gap, column < kGroup ? kStep / 2 : 0.0f) << tiny << " " << zero << " " << row << " " << column;
        }
    }
  }
}

}  // namespace
}  // namespace qg
