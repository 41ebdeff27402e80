// Every layout, made by the quantizer and by convert, opened again and run: the same logits where the same codes and
// scales are stored, a refusal where something would be lost.
#include <cmath>

#include "checkpoint/fold.h"
#include "checkpoint/stored_types.h"
#include "core/file.h"
#include "quantize/calibration_pass.h"
#include "quantize/kv_scales.h"
#include "runtime/cpu_layer.h"
#include "tests/quantize/tiny_model.h"

namespace qg {
namespace {

namespace fs = std::filesystem;
using W = WeightFormat;
using A = ActivationScaling;

void expect_contains(const std::string& text, const std::string& part) {
  EXPECT_NE(text.find(part), std::string::npos) << "\"" << part << "\" is not in: " << text;
}

class Layouts : public test::TinyModel {};

// Quantized for a layout, a model is as good as quantized for any other.
TEST_F(Layouts, QuantizeMakesEachOfThem) {
  const std::vector<float> base = logits(folder_ / "base");
  const auto error = [&](const char* name, const Recipe& r, Layout layout) {
    const fs::path out = quantized(name, r, layout);
    EXPECT_EQ(open_model(out)->layout(), layout) << name;
    EXPECT_EQ(open_model(out)->quant().weights, r.weights) << name;
    const double e = relative_error(logits(out), base);
    RecordProperty(name, std::to_string(e));
    return e;
  };
  const Recipe fp8 = recipe(W::fp8), dynamic = recipe(W::fp8, A::dynamic_token), int8 = recipe(W::int8_sq),
               static8 = recipe(W::int8_sq, A::static_tensor), int4 = recipe(W::int4_awq);
  const double e8 = error("t-fp8", fp8, Layout::trtllm), e8d = error("t-fp8d", dynamic, Layout::trtllm),
               ei = error("t-int8", int8, Layout::trtllm), eis = error("t-int8s", static8, Layout::trtllm),
               e4 = error("t-int4", int4, Layout::trtllm);
  for (double e : {e8, e8d, ei, eis, e4}) EXPECT_LT(e, 0.3);
  EXPECT_LT(error("m-fp8", fp8, Layout::modelopt), 1.1 * e8);
  EXPECT_LT(error("c-fp8", fp8, Layout::compressed_tensors), 1.1 * e8);
  EXPECT_LT(error("c-fp8d", dynamic, Layout::compressed_tensors), 1.1 * e8d);
  EXPECT_LT(error("m-int8s", static8, Layout::modelopt), 1.1 * eis);
  EXPECT_LT(error("c-int8", int8, Layout::compressed_tensors), 1.5 * ei);
  EXPECT_LT(error("m-int4", int4, Layout::modelopt), 1.2 * e4);
  EXPECT_LT(error("c-int4", int4, Layout::compressed_tensors), 1.5 * e4);
  EXPECT_LT(error("c-int4z", asymmetric(), Layout::compressed_tensors), 1.5 * e4);
  EXPECT_LT(error("a-int4", asymmetric(), Layout::autoawq), 1.5 * e4);
}

// The same codes and scales in another layout give the same logits to the bit.
TEST_F(Layouts, ConvertKeepsTheLogits) {
  int made = 0;
  const auto same = [&](const fs::path& from, std::vector<Layout> through) {
    const std::vector<float> before = logits(from);
    fs::path at = from;
    for (Layout layout : through) {
      at = converted(at, "step" + std::to_string(made++), layout);
      EXPECT_EQ(open_model(at)->layout(), layout);
      EXPECT_TRUE(logits(at) == before) << from.filename() << " to " << to_string(layout) << ": "
                                        << relative_error(logits(at), before);
    }
  };
  using L = Layout;
  same(quantized("fp8", recipe(W::fp8), L::trtllm), {L::modelopt, L::compressed_tensors, L::modelopt, L::trtllm});
  same(quantized("fp8d", recipe(W::fp8, A::dynamic_token), L::trtllm), {L::compressed_tensors, L::trtllm});
  same(quantized("int8s", recipe(W::int8_sq, A::static_tensor), L::trtllm), {L::modelopt, L::trtllm});
  same(quantized("int8", recipe(W::int8_sq), L::compressed_tensors), {L::trtllm, L::compressed_tensors});
  same(quantized("int4m", recipe(W::int4_awq), L::modelopt), {L::trtllm, L::modelopt});
  same(quantized("int4c", recipe(W::int4_awq), L::compressed_tensors),
       {L::trtllm, L::compressed_tensors, L::autoawq, L::compressed_tensors});
  same(quantized("int4a", asymmetric(), L::autoawq), {L::compressed_tensors, L::autoawq});
  same(folder_ / "base", {L::trtllm, L::huggingface});
  EXPECT_EQ(open_model(folder_ / ("step" + std::to_string(made - 1)))->weights_hash(), base_->weights_hash());
}

TEST_F(Layouts, ConvertRefusesWhatWouldBeLost) {
  using L = Layout;
  const fs::path awq = quantized("awq", recipe(W::int4_awq), L::trtllm),
                 sq = quantized("sq", recipe(W::int8_sq), L::trtllm), zeros = quantized("z", asymmetric(), L::autoawq);
  expect_contains(refusal(awq, L::compressed_tensors), "a scale per query head");
  expect_contains(refusal(awq, L::autoawq), "a scale per query head");
  expect_contains(refusal(sq, L::compressed_tensors), "a scale per query head");
  expect_contains(refusal(sq, L::modelopt), "cannot hold W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN");
  expect_contains(refusal(zeros, L::trtllm), "have zero points, which the trtllm layout would lose");
  expect_contains(refusal(zeros, L::modelopt), "have zero points, which the modelopt layout would lose");
  expect_contains(refusal(awq, L::huggingface), "codes and scales would be lost");
  expect_contains(refusal(folder_ / "base", L::modelopt), "is for quantized models");
  expect_contains(refusal(folder_ / "base", L::trtllm, KvFormat::int8), "no calibrated int8 KV scales");
  expect_contains(refusal(awq, L::modelopt, {}, 2), "only the trtllm layout has a file per GPU");
  expect_contains(refusal(quantized("f", recipe(W::fp8, A::dynamic_token), L::compressed_tensors), L::modelopt),
                  "cannot hold FP8_PER_CHANNEL_PER_TOKEN");
  // q, k and v with FP8 scales of their own, as modelopt writes them, do not fit TensorRT-LLM's one.
  expect_contains(refusal(fs::path(QG_SOURCE_DIR) / "tests/golden/layouts/modelopt_fp8", L::trtllm),
                  "would have to be quantized again");
}

// Scales of the input that go into the norms: the same function but for the norms' rounding, which is said.
TEST_F(Layouts, ConvertFoldsIntoNorms) {
  const fs::path from = quantized("awq", recipe(W::int4_awq), Layout::trtllm);
  std::vector<std::string> notes;
  const fs::path to = converted(from, "m", Layout::modelopt, {}, 0, &notes);
  EXPECT_LT(relative_error(logits(to), logits(from)), 2e-3);
  ASSERT_EQ(notes.size(), 1u);
  expect_contains(notes[0], "folded into the norms before them, which are stored as F16: rounded by at most");
  const auto model = open_model(to);
  EXPECT_TRUE(model->linear(model->table().linear(LinearRole::qkv, 0)).prequant_scale.empty());
  EXPECT_FALSE(model->linear(model->table().linear(LinearRole::down, 0)).prequant_scale.empty());
}

// A folder with norms in F32 beside a BF16 embedding: the layouts have one type, and what that costs is said.
TEST_F(Layouts, ConvertSaysThatTensorsOfAnotherTypeAreRounded) {
  const TensorSet base = TensorSet::open_folder(folder_ / "base");
  const auto mixed = [&](const std::string& name, float of_norms) {
    fs::copy(folder_ / "base", folder_ / name);
    std::vector<TensorEntry> entries;
    const auto is_norm = [](const std::string& tensor) { return tensor.ends_with("norm.weight"); };
    for (const std::string& tensor : base.names()) {
      entries.push_back(*base.find(tensor));
      entries.back().dtype = is_norm(tensor) ? DType::f32 : DType::bf16;
    }
    SafetensorsWriter file(folder_ / name / "model.safetensors", entries);
    for (const std::string& tensor : base.names()) {
      std::vector<float> values = to_f32(base.get(tensor));
      if (is_norm(tensor)) std::fill(values.begin(), values.end(), of_norms);
      file.write(tensor, tensor_from_f32(values, base.get(tensor).shape, is_norm(tensor) ? DType::f32 : DType::bf16));
    }
    file.finish();
    return folder_ / name;
  };
  std::vector<std::string> notes;
  // Halfway between two values of BF16, which has 8 bits: 2^-8 of it.
  converted(mixed("rounded", 1.00390625f), "to-rounded", Layout::trtllm, {}, 0, &notes);
  ASSERT_EQ(notes.size(), 1u);
  expect_contains(notes[0], "5 tensors of F32 are stored as BF16, the embedding's type: rounded by at most 0.39 %");
  converted(mixed("exact", 1.5f), "to-exact", Layout::trtllm, {}, 0, &notes);
  EXPECT_TRUE(notes.empty()) << notes[0];
  EXPECT_EQ(f32_matrices_note(*open_model(folder_ / "rounded"), DType::f16), "") << "norms are computed in F32";
}

// A GPU computes in 16 bits what may be stored in F32, whatever the embedding's type is.
TEST_F(Layouts, MatricesInF32AreTold) {
  EXPECT_EQ(f32_matrices_note(*base_, DType::f16), "");
  const TensorSet base = TensorSet::open_folder(folder_ / "base");
  fs::copy(folder_ / "base", folder_ / "wide");
  std::vector<TensorEntry> entries;
  for (const std::string& name : base.names()) {
    entries.push_back(*base.find(name));
    if (name.ends_with("down_proj.weight")) entries.back().dtype = DType::f32;
  }
  SafetensorsWriter file(folder_ / "wide/model.safetensors", entries);
  for (const TensorEntry& entry : entries)
    file.write(entry.name, tensor_from_f32(to_f32(base.get(entry.name)), entry.shape, entry.dtype));
  file.finish();
  const auto wide = open_model(folder_ / "wide");
  EXPECT_EQ(wide->dtype(), DType::f16);
  EXPECT_EQ(f32_matrices_note(*wide, DType::f16),
            "2 matrices stored in F32 are computed in FP16: they are rounded from 24 bits to 11");
  EXPECT_EQ(f32_matrices_note(*wide, DType::bf16),
            "2 matrices stored in F32 are computed in BF16: they are rounded from 24 bits to 8");
}

TEST_F(Layouts, FoldMovesScalesExactly) {
  const auto model = open_model(quantized("awq", recipe(W::int4_awq), Layout::trtllm));
  const ModelTable& table = model->table();
  LayerWeights layer;
  layer.attention_norm = layer.mlp_norm = std::vector<float>(128, 1.0f);
  for (const LinearSpec* spec : table.layer_linears(0)) layer.linears[spec->role] = model->linear(*spec);
  const std::vector<float> qkv = to_f32(layer.linears.at(LinearRole::qkv).prequant_scale),
                           down = to_f32(layer.linears.at(LinearRole::down).prequant_scale),
                           up_before = to_f32(layer.linears.at(LinearRole::up).weight_scale);
  LayerWeights refused = layer;
  EXPECT_THROW(fold_prequant(refused, table, 0, PrequantPlace::nowhere), Error);  // o has a scale per query head
  std::vector<float> shared(128);
  for (size_t j = 0; j < shared.size(); ++j)
    shared[j] = 1.0f + static_cast<float>(shared_output_scales(table.shape)[j]);
  layer.linears.at(LinearRole::attention_output).prequant_scale = tensor_from_f32(shared, {128});
  const std::vector<float> v_before = to_f32(layer.linears.at(LinearRole::qkv).weight_scale);
  fold_prequant(layer, table, 0, PrequantPlace::nowhere);
  EXPECT_EQ(layer.attention_norm, qkv);
  for (const auto& [role, weights] : layer.linears) EXPECT_TRUE(weights.prequant_scale.empty());
  const std::vector<float> up = to_f32(layer.linears.at(LinearRole::up).weight_scale),
                           v = to_f32(layer.linears.at(LinearRole::qkv).weight_scale);
  const size_t groups = up.size() / 256;
  for (size_t i = 0; i < up.size(); ++i) EXPECT_EQ(up[i], up_before[i] * down[i / groups]);
  for (size_t i = 0; i < v.size(); ++i) {
    const size_t row = i / groups, first_v = 128 + 32;
    EXPECT_EQ(v[i], row < first_v ? v_before[i] : v_before[i] * (1.0f + static_cast<float>(row - first_v))) << row;
  }
}

TEST_F(Layouts, RanksJoinToTheSameModel) {
  const std::vector<std::pair<const char*, Recipe>> recipes{{"fp16", recipe(W::fp16)},
                                                            {"fp8", recipe(W::fp8)},
                                                            {"fp8d", recipe(W::fp8, A::dynamic_token)},
                                                            {"int8", recipe(W::int8_sq)},
                                                            {"int8s", recipe(W::int8_sq, A::static_tensor)},
                                                            {"int4", recipe(W::int4_awq)}};
  for (const auto& [name, r] : recipes) {
    const fs::path one = quantized(name, r, Layout::trtllm);
    const std::vector<float> wanted = logits(one);
    for (int64_t ranks : {2, 4}) {  // with 4, each KV head lies in two ranks
      const std::string out = std::string(name) + "-tp" + std::to_string(ranks);
      const fs::path several = converted(one, out, Layout::trtllm, {}, ranks);
      EXPECT_TRUE(fs::exists(several / ("rank" + std::to_string(ranks - 1) + ".safetensors"))) << out;
      EXPECT_FALSE(fs::exists(several / ("rank" + std::to_string(ranks) + ".safetensors"))) << out;
      EXPECT_TRUE(logits(several) == wanted) << out;
      EXPECT_FALSE(open_model(several)->kv_scales().int8.empty()) << out;
      const fs::path back = converted(several, out + "-back", Layout::trtllm, {}, 1);
      EXPECT_TRUE(read_file(back / "rank0.safetensors") == read_file(one / "rank0.safetensors")) << out;
      const fs::path direct = quantized(out + "-direct", r, Layout::trtllm, {}, ranks);
      for (int64_t rank = 0; rank < ranks; ++rank) {
        const std::string file = "rank" + std::to_string(rank) + ".safetensors";
        EXPECT_TRUE(read_file(direct / file) == read_file(several / file)) << out << " " << file;
      }
    }
  }
  expect_contains(refusal(folder_ / "fp8", Layout::trtllm, {}, 3), "3 GPUs cannot share 8 query heads");
  expect_contains(refusal(folder_ / "int4", Layout::trtllm, {}, 8), "whole groups of 32");
}

// What `quantize` would have written for the same folder: one GPU and the trtllm layout go without saying.
TEST_F(Layouts, LineageIsOfTheFolderThatWasWritten) {
  const auto said = [](const fs::path& folder, const char* key) {
    const Json recipe = open_model(folder)->lineage()->recipe;
    return recipe.contains(key) ? recipe[key] : Json(nullptr);
  };
  const fs::path two = quantized("two", recipe(W::fp8), Layout::trtllm, {}, 2);
  EXPECT_EQ(said(two, "ranks"), 2);
  EXPECT_EQ(said(converted(two, "four", Layout::trtllm, {}, 4), "ranks"), 4);
  EXPECT_EQ(said(converted(two, "still-two", Layout::trtllm, KvFormat::fp8), "ranks"), 2);
  const fs::path one = converted(two, "one", Layout::trtllm, {}, 1);
  EXPECT_EQ(said(one, "ranks"), nullptr);
  const Lineage whole = *open_model(quantized("direct", recipe(W::fp8), Layout::trtllm))->lineage();
  EXPECT_EQ(open_model(one)->lineage()->recipe_hash(), whole.recipe_hash());
  const fs::path other = converted(two, "other", Layout::modelopt);
  EXPECT_EQ(said(other, "ranks"), nullptr);
  EXPECT_EQ(said(other, "layout"), "modelopt");
  const fs::path back = converted(other, "back", Layout::trtllm, {}, 2);
  EXPECT_EQ(said(back, "layout"), nullptr);
  EXPECT_EQ(said(back, "ranks"), 2);
}

// A shared table is split as lm_head is, or the ranks could not share it.
TEST_F(Layouts, RanksOfATiedModel) {
  ModelShape shape = test::shared_heads_shape();
  shape.tied_embeddings = true;
  make_base(shape);
  const fs::path one = quantized("one", recipe(W::fp8), Layout::trtllm);
  const fs::path two = converted(one, "two", Layout::trtllm, {}, 2);
  EXPECT_TRUE(logits(two) == logits(one));
  EXPECT_EQ(read_json(two / "config.json")["use_parallel_embedding"], true);
  EXPECT_TRUE(open_model(two)->table().shape.tied_embeddings);
  // Files of two checkpoints that do not belong together.
  const fs::path other = quantized("other", recipe(W::fp8, A::static_tensor), Layout::trtllm, KvFormat::fp8, 2);
  fs::remove(two / "rank1.safetensors");
  fs::copy(other / "rank1.safetensors", two / "rank1.safetensors");
  EXPECT_THROW(open_model(two), Error);
}

TEST_F(Layouts, KvScalesLieWhereTheLayoutHasThem) {
  const Recipe fp8 = recipe(W::fp8);
  const fs::path open = quantized("open", fp8, Layout::trtllm);
  const KvScales all = open_model(open)->kv_scales();
  for (Layout layout : {Layout::modelopt, Layout::compressed_tensors}) {
    const std::string name(to_string(layout));
    for (const fs::path& folder :
         {quantized(name, fp8, layout, KvFormat::fp8), converted(open, name + "-c", layout, KvFormat::fp8)}) {
      const auto model = open_model(folder);
      EXPECT_EQ(model->quant().fixed_kv, KvFormat::fp8) << folder;
      EXPECT_FALSE(fs::exists(folder / "kv_scales.safetensors"));
      for (size_t i = 0; i < 2; ++i) {
        EXPECT_EQ(model->kv_scales().fp8.at(i).k, all.fp8[i].k);
        EXPECT_EQ(model->kv_scales().fp8.at(i).v, all.fp8[i].v);
      }
    }
    const auto later = open_model(converted(open, name + "-open", layout));
    EXPECT_FALSE(later->quant().fixed_kv.has_value());
    EXPECT_EQ(later->kv_scales().int8.at(1).v, all.int8[1].v);
    expect_contains(refusal(open, layout, KvFormat::int8), "no place for an int8 KV cache");
  }
  std::vector<std::string> notes;
  const auto one = open_model(converted(open, "fixed", Layout::trtllm, KvFormat::int8, 0, &notes));
  EXPECT_EQ(one->kv_scales().int8.at(0).k, std::max(all.int8[0].k, all.int8[0].v));
  expect_contains(notes.at(0), "the greater of K's and V's, which differ in 2 layers");
  expect_contains(refusal(folder_ / "base", Layout::huggingface, KvFormat::fp8), "no place for a fixed KV format");
  const fs::path half = converted(folder_ / "base", "fixed16", Layout::trtllm, KvFormat::fp8);
  expect_contains(refusal(half, Layout::huggingface), "no place for a fixed KV format");
  expect_contains(refusal(quantized("a", asymmetric(), Layout::autoawq), Layout::autoawq, KvFormat::fp8),
                  "no place for KV scales");
}

// vLLM takes every .safetensors file of a folder without an index for the model's; and engines read the tokens that end
// a reply in config.json.
TEST_F(Layouts, OtherEnginesFindTheWeightsAloneAndTheTokens) {
  Json config = read_json(folder_ / "base/config.json");
  config["eos_token_id"] = {7, 9};
  config["pad_token_id"] = "none";  // no number: not carried on
  write_file(folder_ / "base/config.json", config.dump());
  write_file(folder_ / "base/generation_config.json",
             R"({"bos_token_id": 3, "eos_token_id": 5, "pad_token_id": null})");
  const auto expect_found = [](const fs::path& folder, bool sidecar) {
    EXPECT_EQ(fs::exists(folder / "kv_scales.safetensors"), sidecar) << folder;
    ASSERT_EQ(fs::exists(folder / "model.safetensors.index.json"), sidecar) << folder;
    const Json made = read_json(folder / "config.json");
    EXPECT_EQ(made["eos_token_id"], (Json{7, 9})) << folder;
    EXPECT_EQ(made["bos_token_id"], 3);
    EXPECT_FALSE(made.contains("pad_token_id"));
    if (!sidecar) return;
    const Json index = read_json(folder / "model.safetensors.index.json");
    const SafetensorsFile file(folder / "model.safetensors");
    int64_t bytes = 0;
    for (const StoredTensor& tensor : file.tensors()) {
      EXPECT_EQ(index["weight_map"][tensor.name], "model.safetensors") << tensor.name;
      bytes += num_elements(tensor.shape) * static_cast<int64_t>(size_bytes(tensor.dtype));
    }
    EXPECT_EQ(index["weight_map"].size(), file.tensors().size());
    EXPECT_EQ(index["metadata"]["total_size"], bytes);
    EXPECT_NO_THROW(open_model(folder));
  };
  const Recipe fp8 = recipe(W::fp8), int4 = recipe(W::int4_awq);
  expect_found(quantized("ct-fp8", fp8, Layout::compressed_tensors), true);
  expect_found(quantized("ct-int4", int4, Layout::compressed_tensors), true);
  expect_found(quantized("mo-fp8", fp8, Layout::modelopt), true);
  expect_found(quantized("awq", asymmetric(), Layout::autoawq), true);
  expect_found(quantized("fixed", fp8, Layout::compressed_tensors, KvFormat::fp8), false);
  // From TensorRT-LLM's layout, whose config.json has no such keys, generation_config.json tells them.
  const Json later =
      read_json(converted(quantized("trt", fp8, Layout::trtllm), "back", Layout::modelopt) / "config.json");
  EXPECT_EQ(later["eos_token_id"], 5);
  EXPECT_EQ(later["bos_token_id"], 3);
}

// V's scales, as those of the V that the folder computes are: maxima where a token is in the calibration text.
void expect_scales_of_own_values(const fs::path& folder, const CalibrationText& text, bool as_a_bound = false) {
  const auto model = open_model(folder);
  const ModelShape& shape = model->table().shape;
  std::vector<int32_t> tokens;
  std::vector<int64_t> lengths;
  for (const std::vector<int32_t>& sequence : text.sequences) {
    tokens.insert(tokens.end(), sequence.begin(), sequence.end());
    lengths.push_back(static_cast<int64_t>(sequence.size()));
  }
  std::vector<float> hidden(tokens.size() * static_cast<size_t>(shape.hidden));
  embed_tokens(*model, tokens, hidden.data());
  KvCollector values;
  const CpuLayer layer = load_cpu_layer(*model, 0);  // behind it, inputs are not those of the 16-bit model
  CalibrationPass(shape, layer, lengths, hidden).attend([&](const float* qkv, int64_t rows) {
    for (int64_t r = 0; r < rows; ++r)
      values.add({qkv + (r + 1) * shape.qkv_rows() - shape.kv_rows(), static_cast<size_t>(shape.kv_rows())});
  });
  for (const KvFormat format : {KvFormat::fp8, KvFormat::int8}) {
    const float own = values.scale(format), stored = model->kv_scales().of(format).at(0).v;
    EXPECT_GT(stored, 0.9f * own) << folder << ", " << to_string(format);
    EXPECT_LT(stored, (as_a_bound ? 3.0f : 1.15f) * own) << folder << ", " << to_string(format);
  }
}

// The scale of the attention output's input changes V where the layout has no other place for it, and V's scales too.
TEST_F(Layouts, KvScalesFitTheValuesThatAreStored) {
  Recipe int8 = recipe(W::int8_sq), int4 = asymmetric();
  for (Recipe* r : {&int8, &int4}) {
    r->alpha_steps = 0;
    r->fixed_alpha = 1;  // the farthest from scales of ones
  }
  expect_scales_of_own_values(quantized("t", int8, Layout::trtllm), calibration_);
  expect_scales_of_own_values(quantized("c8", int8, Layout::compressed_tensors), calibration_);
  expect_scales_of_own_values(quantized("c4", int4, Layout::compressed_tensors), calibration_);
  expect_scales_of_own_values(quantized("a4", int4, Layout::autoawq), calibration_);
}

// With a KV head for each query head, any scale can be folded when a folder is converted.
TEST_F(Layouts, ConvertedKvScalesHoldTheValuesThatAreStored) {
  ModelShape shape = test::shared_heads_shape();
  shape.kv_heads = shape.heads;
  make_base(shape);
  Recipe int8 = recipe(W::int8_sq);
  int8.alpha_steps = 0;
  int8.fixed_alpha = 1;
  std::vector<std::string> notes;
  const fs::path to = converted(quantized("t", int8, Layout::trtllm), "c", Layout::compressed_tensors, {}, 0, &notes);
  expect_scales_of_own_values(to, calibration_, true);
  expect_contains(notes.back(), "folded into V in 2 layers");
}

TEST_F(Layouts, KeepLineageAndSideFiles) {
  const fs::path from = quantized("fp8", recipe(W::fp8), Layout::trtllm);
  const fs::path to = converted(from, "c", Layout::compressed_tensors);
  const auto model = open_model(to);
  ASSERT_TRUE(model->lineage().has_value());
  EXPECT_EQ(model->lineage()->base_hash, base_->weights_hash());
  EXPECT_EQ(model->lineage()->recipe["converted_from"], "trtllm");
  EXPECT_TRUE(read_file(to / "tokenizer.json") == read_file(from / "tokenizer.json"));
}

}  // namespace
}  // namespace qg
