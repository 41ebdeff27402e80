// Quantization end to end on a small random model with outlier channels: every format is written, opened again and run.
#include "quantize/quantize.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>
#include <numeric>

#include "checkpoint/kv_scales.h"
#include "checkpoint/synthetic.h"
#include "core/error.h"
#include "core/memory.h"
#include "core/rng.h"
#include "eval/fidelity.h"
#include "model/architecture.h"
#include "model/open_model.h"
#include "runtime/cpu_executor.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

class Quantize : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("quantgrid-quantize-" + std::to_string(getpid()));
    fs::remove_all(folder_);
    fs::create_directories(folder_);
    ModelShape shape;
    shape.family = "llama";
    shape.layers = 2;
    shape.hidden = 192;  // 128 does not divide it: groups of 64
    shape.heads = 6;
    shape.kv_heads = 2;
    shape.head_dim = 32;
    shape.ffn = 320;
    shape.vocab = 300;
    shape.max_position = 512;
    const ModelTable table = make_model_table(shape);
    SyntheticOptions options;
    options.seed = 3;
    options.outliers = 4;
    write_synthetic_model(table, hf_rules_of_family("llama"), options, folder_ / "base");
    base_ = open_model(folder_ / "base");
    for (uint64_t s = 0; s < 6; ++s) {
      std::vector<int32_t> sequence;
      for (uint64_t i = 0; i < 64; ++i) sequence.push_back(static_cast<int32_t>(Rng(7, s).below(i, 256)));
      calibration_.sequences.push_back(sequence);
      for (int32_t& t : sequence) t = (t * 5 + 3) % 256;
      if (s < 2) text_.windows.push_back(sequence);
    }
  }
  void TearDown() override { fs::remove_all(folder_); }

  QuantizeJob job(const std::vector<Recipe>& recipes, const std::string& suffix) const {
    QuantizeJob j;
    j.base = base_.get();
    j.architecture = "LlamaForCausalLM";
    j.calibration = calibration_;
    j.options.sequences = 6;
    j.options.tokens = 64;
    j.options.sample_rows = 128;
    for (const Recipe& recipe : recipes)
      j.outputs.push_back({recipe, folder_ / (std::string(to_string(recipe.weights)) + suffix), Layout::trtllm, {}});
    return j;
  }

  double kl_of(const fs::path& model, KvFormat kv = KvFormat::fp16) const { return kl_of(open_model(model), kv); }
  double kl_of(std::shared_ptr<const Checkpoint> model, KvFormat kv) const {
    ExecutorOptions options;
    options.num_pages = 8;
    const auto base = make_cpu_executor(base_, options);
    options.kv = kv;
    const auto candidate = make_cpu_executor(std::move(model), options);
    Executor* candidates[] = {candidate.get()};
    const FidelityScores scores = score_fidelity(*base, candidates, text_, [](int64_t) {});
    const auto& kld = scores.candidates[0].kld;
    return std::accumulate(kld.begin(), kld.end(), 0.0) / static_cast<double>(kld.size());
  }

  fs::path folder_;
  std::shared_ptr<const Checkpoint> base_;
  CalibrationText calibration_;
  EvalText text_{"random", "", {}};
};

const std::vector<Recipe>& default_recipes() {
  static const std::vector<Recipe> all{default_recipe(WeightFormat::fp16), default_recipe(WeightFormat::fp8),
                                       default_recipe(WeightFormat::int4_awq), default_recipe(WeightFormat::int8_sq)};
  return all;
}

TEST_F(Quantize, MakesEveryFormatBetterThanRoundToNearest) {
  quantize(job(default_recipes(), ""), [](const std::string&) {});
  std::vector<Recipe> plain = default_recipes();
  for (Recipe& r : plain) {
    r.error_feedback = r.clip_search = r.scale_search = false;
    r.alpha_steps = 0;
    r.fixed_alpha = 0;
  }
  quantize(job(plain, "-plain"), [](const std::string&) {});
  EXPECT_LT(kl_of(folder_ / "fp16"), 1e-6);
  for (const char* format : {"fp8", "int4_awq", "int8_sq"}) {
    const double ours = kl_of(folder_ / format), nearest = kl_of(folder_ / (std::string(format) + "-plain"));
    RecordProperty(format, std::to_string(ours) + " against " + std::to_string(nearest));
    EXPECT_LT(ours, 0.85 * nearest) << format;
    EXPECT_GT(ours, 0) << format;
  }
}

TEST_F(Quantize, WritesWhatTheRecipeSays) {
  quantize(job(default_recipes(), ""), [](const std::string&) {});
  const auto fp8 = open_model(folder_ / "fp8"), int4 = open_model(folder_ / "int4_awq"),
             int8 = open_model(folder_ / "int8_sq");
  EXPECT_EQ(fp8->quant().activations, ActivationScaling::static_tensor);
  EXPECT_EQ(int4->quant().group_size, 64);
  EXPECT_EQ(int8->quant().activations, ActivationScaling::dynamic_token);
  for (const auto& checkpoint : {std::shared_ptr<const Checkpoint>(open_model(folder_ / "fp8")),
                                 std::shared_ptr<const Checkpoint>(open_model(folder_ / "int8_sq"))}) {
    ASSERT_EQ(checkpoint->kv_scales().fp8.size(), 2u);
    ASSERT_EQ(checkpoint->kv_scales().int8.size(), 2u);
    for (const KvScale& s : checkpoint->kv_scales().int8) EXPECT_TRUE(s.k > 0 && s.v > 0 && std::isfinite(s.k + s.v));
    ASSERT_TRUE(checkpoint->lineage().has_value());
    EXPECT_EQ(checkpoint->lineage()->base_hash, base_->weights_hash());
  }
  // gate and up see one activation: their static scales must agree, since layouts share them.
  const LinearWeights gate = fp8->linear(fp8->table().linear(LinearRole::gate, 0)),
                      up = fp8->linear(fp8->table().linear(LinearRole::up, 0));
  EXPECT_EQ(to_f32(gate.input_scale), to_f32(up.input_scale));
  EXPECT_EQ(to_f32(gate.weight_scale), to_f32(up.weight_scale));
}

// The same file, alone, for a 16-bit model that is run as it is.
TEST_F(Quantize, ShapedKeysCostLessThanPlainOnes) {
  QuantizeJob only = job({}, "");
  only.kv_scales = folder_ / "kv.safetensors";
  EXPECT_TRUE(quantize(only, [](const std::string&) {}).empty());
  const auto shaped = with_kv_scales(base_, only.kv_scales, base_->weights_hash());
  KvScales plain = shaped->kv_scales();
  ASSERT_EQ(plain.shaping.size(), 2u);
  plain.shaping.clear();
  write_kv_scales_file(folder_ / "plain.safetensors", plain, base_->table().shape, "");
  const double ours = kl_of(shaped, KvFormat::fp8),
               nearest = kl_of(with_kv_scales(base_, folder_ / "plain.safetensors"), KvFormat::fp8);
  EXPECT_GT(ours, 0);
  EXPECT_LT(ours, 0.7 * nearest);

  quantize(job({default_recipe(WeightFormat::fp8)}, ""), [](const std::string&) {});
  const auto fp8 = open_model(folder_ / "fp8");
  EXPECT_EQ(fp8->kv_scales().shaping.at(1).k_transform, shaped->kv_scales().shaping.at(1).k_transform);
  EXPECT_EQ(fp8->lineage()->recipe["kv_keys"], "shaped for any position");
}

TEST_F(Quantize, EveryKvFormatRunsOnOneCheckpoint) {
  quantize(job({default_recipe(WeightFormat::fp8)}, ""), [](const std::string&) {});
  const double fp16 = kl_of(folder_ / "fp8", KvFormat::fp16);
  for (KvFormat kv : {KvFormat::fp8, KvFormat::int8}) {
    const double kl = kl_of(folder_ / "fp8", kv);
    EXPECT_NE(kl, fp16) << to_string(kv);
    EXPECT_LT(kl, fp16 + 0.01) << to_string(kv);
  }
}

TEST_F(Quantize, IsDeterministicAlsoBesideOtherFormats) {
  quantize(job(default_recipes(), ""), [](const std::string&) {});
  quantize(job({default_recipe(WeightFormat::int4_awq)}, "-again"), [](const std::string&) {});
  EXPECT_EQ(open_model(folder_ / "int4_awq")->weights_hash(), open_model(folder_ / "int4_awq-again")->weights_hash());
}

TEST_F(Quantize, LeavesNothingUnderTheNameWhenStopped) {
  int steps = 0;
  const auto stop_late = [&](const std::string&) {
    if (++steps == 6) throw Error("stopped");
  };
  EXPECT_THROW(quantize(job(default_recipes(), ""), stop_late), Error);
  for (const char* name : {"fp16", "fp8", "int4_awq", "int8_sq"}) EXPECT_FALSE(fs::exists(folder_ / name)) << name;
}

TEST_F(Quantize, RefusesWhatItCannotDo) {
  Recipe wide = default_recipe(WeightFormat::int4_awq);
  wide.group_size = 128;
  EXPECT_THROW(quantize(job({wide}, "-wide"), [](const std::string&) {}), Error);
  quantize(job({default_recipe(WeightFormat::fp8)}, ""), [](const std::string&) {});
  const auto quantized = open_model(folder_ / "fp8");
  QuantizeJob again = job({default_recipe(WeightFormat::fp8)}, "-again");
  again.base = quantized.get();
  EXPECT_THROW(quantize(again, [](const std::string&) {}), Error);
}

// A base in F32 with another value in place of its tensor's first one.
class WideBase : public Quantize {
 protected:
  void make_wide(const std::string& tensor, float value) {
    SyntheticOptions options;
    options.seed = 3;
    options.dtype = DType::f32;
    fs::remove_all(folder_ / "wide");
    write_synthetic_model(base_->table(), hf_rules_of_family("llama"), options, folder_ / "wide");
    const fs::path file = folder_ / "wide" / "model.safetensors";
    const int64_t offset = SafetensorsFile(file).find(tensor)->offset;
    std::fstream stream(file, std::ios::in | std::ios::out | std::ios::binary);
    stream.seekp(offset);
    stream.write(reinterpret_cast<const char*>(&value), sizeof(value));
    stream.close();
    base_ = open_model(folder_ / "wide");
  }

  std::string refusal(const Recipe& recipe) const {
    std::string text = "nothing was refused";
    try {
      quantize(job({recipe}, "-wide"), [](const std::string&) {});
    } catch (const Error& error) {
      text = error.what();
    }
    EXPECT_FALSE(fs::exists(folder_ / (std::string(to_string(recipe.weights)) + "-wide")));
    return text;
  }
};

// What the checkpoint stores in 16 bits must not become infinite there.
TEST_F(WideBase, IsRefusedWhereTheLayoutsTypeOverflows) {
  for (const char* tensor :
       {"model.embed_tokens.weight", "model.norm.weight", "model.layers.1.input_layernorm.weight"}) {
    make_wide(tensor, 1e5f);
    const std::string text = refusal(default_recipe(WeightFormat::fp8));
    EXPECT_NE(text.find("holds values that overflow F16"), std::string::npos) << tensor << ": " << text;
  }
}

// The last layer's MLP, behind which nothing else would notice.
TEST_F(WideBase, IsRefusedWhereActivationsAreNoNumbers) {
  make_wide("model.layers.1.self_attn.o_proj.weight", 3e38f);
  Recipe recipe = default_recipe(WeightFormat::int8_sq);
  recipe.error_feedback = false;
  const std::string text = refusal(recipe);
  EXPECT_NE(text.find("infinite or not a number"), std::string::npos) << text;
  EXPECT_NE(text.find("layers.1.mlp_in"), std::string::npos) << text;
}

TEST(RecipeJson, HoldsAllThatChangesTheCheckpoint) {
  for (const WeightFormat weights : {WeightFormat::fp8, WeightFormat::int8_sq}) {
    Recipe searched = default_recipe(weights);
    searched.activations = ActivationScaling::static_tensor;
    Recipe plain = searched;
    plain.scale_search = false;
    EXPECT_NE(searched.to_json(), plain.to_json()) << to_string(weights);
  }
}

TEST(GroupSize, IsTheGreatestThatDividesAll) {
  EXPECT_EQ(pick_group_size({4096, 14336}), 128);
  EXPECT_EQ(pick_group_size({576, 1536}), 64);
  EXPECT_EQ(pick_group_size({96, 128}), 32);
  EXPECT_THROW(pick_group_size({100}), Error);
}

}  // namespace
}  // namespace qg
