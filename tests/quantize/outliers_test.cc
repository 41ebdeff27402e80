// A model with outlier channels as large ones have them: a few channels of each activation are 128 times the others,
// and the weights that read them as much smaller. The function is that of the model without them, to the bit; rounding
// to nearest loses it, and the quantizers must not.
#include <cmath>
#include <cstring>

#include "checkpoint/safetensors.h"
#include "core/float.h"
#include "tests/quantize/tiny_model.h"
#include "tests/runtime/rounded_checkpoint.h"

namespace qg {
namespace {

namespace fs = std::filesystem;
using W = WeightFormat;

constexpr float kOutlier = 128;  // a power of two: nothing is rounded
bool is_outlier(int64_t channel) {
  return channel % 37 == 5;
}

class Outliers : public test::TinyModel {
 protected:
  void SetUp() override {
    TinyModel::SetUp();
    calm_ = logits(folder_ / "base");
    const TensorSet base = TensorSet::open_folder(folder_ / "base");
    fs::copy(folder_ / "base", folder_ / "wild");
    std::vector<TensorEntry> entries;
    for (const std::string& name : base.names()) entries.push_back(*base.find(name));
    for (TensorEntry& entry : entries) entry.dtype = DType::f32;  // the scaled weights do not all fit F16
    SafetensorsWriter file(folder_ / "wild/model.safetensors", entries);
    for (const std::string& name : base.names()) file.write(name, with_outliers(name, base.get(name)));
    file.finish();
    base_ = open_model(folder_ / "wild");
    EXPECT_LT(relative_error(logits(folder_ / "wild"), calm_), 1e-5);
  }

  static bool ends(const std::string& name, std::initializer_list<const char*> endings) {
    for (const char* e : endings)
      if (name.ends_with(e)) return true;
    return false;
  }

  static Tensor with_outliers(const std::string& name, const Tensor& tensor) {
    std::vector<float> values = to_f32(tensor);
    const auto columns = static_cast<int64_t>(tensor.shape.back());
    for (size_t i = 0; i < values.size(); ++i) {
      const int64_t row = static_cast<int64_t>(i) / columns, column = static_cast<int64_t>(i) % columns;
      if (ends(name, {"input_layernorm.weight", "post_attention_layernorm.weight"}) && is_outlier(column))
        values[i] *= kOutlier;
      if (ends(name, {"q_proj.weight", "k_proj.weight", "v_proj.weight", "gate_proj.weight", "up_proj.weight"}) &&
          is_outlier(column))
        values[i] /= kOutlier;
      if (ends(name, {"up_proj.weight", "v_proj.weight"}) && is_outlier(row)) values[i] *= kOutlier;
      if (ends(name, {"down_proj.weight"}) && is_outlier(column)) values[i] /= kOutlier;
      // Heads of 16: input h * 16 + d of o reads v row (h / 4) * 16 + d.
      if (ends(name, {"o_proj.weight"}) && is_outlier(column / 64 * 16 + column % 16)) values[i] /= kOutlier;
    }
    return tensor_from_f32(values, tensor.shape);
  }

  double error(const std::string& name, const Recipe& r, Layout layout) const {
    const double e = relative_error(logits(quantized(name, r, layout)), calm_);
    RecordProperty(name, std::to_string(e));
    return e;
  }

  // Rounded to nearest with scales from the maxima, nothing else.
  double plain(W format) const {
    const auto activations = format == W::int8_sq ? ActivationScaling::dynamic_token : ActivationScaling::none;
    const auto rounded = std::make_shared<test::RoundedCheckpoint>(base_, format, activations);
    const double e = relative_error(logits(std::shared_ptr<const Checkpoint>(rounded)), calm_);
    RecordProperty(std::string(to_string(format)) + "-plain", std::to_string(e));
    return e;
  }

  std::vector<float> calm_;
};

TEST_F(Outliers, PlainRoundingFailsAndOursDoesNot) {
  const double int8 = plain(W::int8_sq), int4 = plain(W::int4_awq);
  EXPECT_GT(int8, 0.25) << "plain rounding should fail visibly, or this test says nothing";
  EXPECT_GT(int4, 0.25) << "plain rounding should fail visibly, or this test says nothing";
  EXPECT_LT(error("int8", recipe(W::int8_sq), Layout::trtllm), 0.1 * int8);
  EXPECT_LT(error("int8-static", recipe(W::int8_sq, ActivationScaling::static_tensor), Layout::trtllm), 0.25 * int8);
  EXPECT_LT(error("int4", recipe(W::int4_awq), Layout::trtllm), 0.5 * int4);
}

// Also where the layout has no place for a scale of the input.
TEST_F(Outliers, FoldedScalesTameThemToo) {
  const double int8 = plain(W::int8_sq), int4 = plain(W::int4_awq);
  EXPECT_LT(error("c8", recipe(W::int8_sq), Layout::compressed_tensors), 0.1 * int8);
  EXPECT_LT(error("c4", recipe(W::int4_awq), Layout::compressed_tensors), 0.5 * int4);
  EXPECT_LT(error("a4", asymmetric(), Layout::autoawq), 0.5 * int4);
}

}  // namespace
}  // namespace qg
