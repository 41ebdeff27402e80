#pragma once
// A small random model, the calibration that goes with it, and folders made from them.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "checkpoint/convert.h"
#include "checkpoint/synthetic.h"
#include "core/error.h"
#include "core/rng.h"
#include "model/architecture.h"
#include "model/open_model.h"
#include "quantize/quantize.h"
#include "runtime/cpu_executor.h"

namespace qg::test {

// Eight query heads on two KV heads, and a vocabulary that neither 2 nor 4 divides.
inline ModelShape shared_heads_shape() {
  ModelShape shape;
  shape.family = "llama";
  shape.layers = 2;
  shape.hidden = 128;
  shape.heads = 8;
  shape.kv_heads = 2;
  shape.head_dim = 16;
  shape.ffn = 256;
  shape.vocab = 301;
  shape.max_position = 512;
  return shape;
}

class TinyModel : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = std::filesystem::temp_directory_path() / ("quantgrid-layouts-" + std::to_string(getpid()));
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
    make_base(shared_heads_shape());
    for (uint64_t s = 0; s < 6; ++s) {
      std::vector<int32_t> sequence;
      for (uint64_t i = 0; i < 64; ++i) sequence.push_back(static_cast<int32_t>(Rng(7, s).below(i, 256)));
      calibration_.sequences.push_back(std::move(sequence));
    }
  }
  void TearDown() override { std::filesystem::remove_all(folder_); }

  void make_base(const ModelShape& shape) {
    SyntheticOptions options;
    options.seed = 3;
    std::filesystem::remove_all(folder_ / "base");
    write_synthetic_model(make_model_table(shape), hf_rules_of_family(shape.family), options, folder_ / "base");
    base_ = open_model(folder_ / "base");
  }

  static Recipe recipe(WeightFormat weights) {
    Recipe r = default_recipe(weights);
    if (weights == WeightFormat::int4_awq) r.group_size = 32;
    return r;
  }
  static Recipe recipe(WeightFormat weights, ActivationScaling activations) {
    Recipe r = recipe(weights);
    r.activations = activations;
    if (weights == WeightFormat::fp8 && activations == ActivationScaling::dynamic_token)
      r.weight_scaling = WeightScaling::channel;
    return r;
  }
  static Recipe asymmetric() {
    Recipe r = recipe(WeightFormat::int4_awq);
    r.zero_points = true;
    return r;
  }

  std::filesystem::path quantized(const std::string& name, const Recipe& r, Layout layout,
                                  std::optional<KvFormat> kv = {}, int64_t ranks = 1) const {
    QuantizeJob job;
    job.base = base_.get();
    job.architecture = architecture_of_family(base_->table().shape.family);
    job.calibration = calibration_;
    job.options.sequences = 6;
    job.options.tokens = 64;
    job.options.sample_rows = 128;
    QuantizeOutput output;
    output.recipe = r;
    output.out = folder_ / name;
    output.layout = layout;
    output.fixed_kv = kv;
    output.ranks = ranks;
    job.outputs.push_back(output);
    quantize(job, [](const std::string&) {});
    return folder_ / name;
  }

  std::filesystem::path converted(const std::filesystem::path& from, const std::string& name, Layout layout,
                                  std::optional<KvFormat> kv = {}, int64_t ranks = 0,
                                  std::vector<std::string>* notes = nullptr) const {
    const auto checkpoint = open_model(from);
    ConvertOptions options;
    options.out = folder_ / name;
    options.layout = layout;
    options.kv = kv;
    options.ranks = ranks;
    options.architecture = architecture_of_family(checkpoint->table().shape.family);
    options.hf_rules = hf_rules_of_family(checkpoint->table().shape.family);
    const std::vector<std::string> said = convert_checkpoint(*checkpoint, options);
    if (notes) *notes = said;
    return folder_ / name;
  }

  std::string refusal(const std::filesystem::path& from, Layout layout, std::optional<KvFormat> kv = {},
                      int64_t ranks = 0) const {
    std::string text = "nothing was refused";
    try {
      converted(from, "refused", layout, kv, ranks);
    } catch (const Error& error) {
      text = error.what();
    }
    EXPECT_FALSE(std::filesystem::exists(folder_ / "refused"));
    EXPECT_FALSE(std::filesystem::exists(folder_ / "refused.partial"));
    return text;
  }

  std::vector<float> logits(const std::filesystem::path& model) const {
    return logits(std::shared_ptr<const Checkpoint>(open_model(model)));
  }
  std::vector<float> logits(std::shared_ptr<const Checkpoint> model) const {
    ExecutorOptions options;
    options.num_pages = 8;
    const auto executor = make_cpu_executor(std::move(model), options);
    const std::vector<int32_t>& tokens = calibration_.sequences[0];
    std::vector<int32_t> pages(8);
    std::iota(pages.begin(), pages.end(), 0);
    SequencePiece piece;
    piece.num_tokens = static_cast<int64_t>(tokens.size());
    piece.pages = pages;
    StepInput input;
    input.tokens = tokens;
    input.pieces = {&piece, 1};
    input.logits = LogitsWanted::all;
    StepOutput output;
    executor->step(input, output);
    return output.logits;
  }

  // Largest difference over largest magnitude.
  static double relative_error(const std::vector<float>& got, const std::vector<float>& wanted) {
    if (got.size() != wanted.size()) return 1e300;
    double difference = 0, magnitude = 0;
    for (size_t i = 0; i < wanted.size(); ++i) {
      difference = std::max(difference, std::fabs(static_cast<double>(got[i]) - wanted[i]));
      magnitude = std::max(magnitude, std::fabs(static_cast<double>(wanted[i])));
    }
    return difference / magnitude;
  }

  std::filesystem::path folder_;
  std::shared_ptr<const Checkpoint> base_;
  CalibrationText calibration_;
};

}  // namespace qg::test
