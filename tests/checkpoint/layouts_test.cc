// The modelopt, compressed-tensors and AutoAWQ layouts against files that scripts/golden/make_layout_golden.py packed
// with numpy.
#include <algorithm>
#include <cmath>
#include <functional>

#include "checkpoint/hf_quantized.h"
#include "checkpoint/inspect.h"
#include "checkpoint/int4_packing.h"
#include "checkpoint/linear_parts.h"
#include "checkpoint/strict_json.h"
#include "model/open_model.h"
#include "tests/checkpoint/fixtures.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

const char* const kCases[] = {"modelopt_fp8",           "modelopt_int4_awq", "modelopt_int8",
                              "compressed_fp8_static",  "compressed_int8",   "compressed_int4",
                              "compressed_fp8_dynamic", "autoawq",           "compressed_int4_zeros"};

Tensor part(const TensorSet& set, const std::string& name) {
  return set.find(name) ? set.get(name) : Tensor();
}

void expect_same(const Tensor& a, const Tensor& b, const std::string& what) {
  SCOPED_TRACE(what);
  ASSERT_EQ(a.empty(), b.empty());
  if (a.empty()) return;
  EXPECT_EQ(to_string(a.dtype), to_string(b.dtype));
  EXPECT_EQ(a.shape, b.shape);
  EXPECT_TRUE(bytes_of(a) == bytes_of(b));
}

WriterOptions options_like(const Checkpoint& model, const fs::path& out) {
  WriterOptions options;
  options.out = out;
  options.layout = model.layout();
  options.table = model.table();
  options.quant = model.quant();
  options.dtype = model.dtype();
  options.architecture = architecture_of_family(model.table().shape.family);
  options.hf_rules = hf_rules_of_family(model.table().shape.family);
  return options;
}

void copy_model(const Checkpoint& model, CheckpointWriter& writer) {
  for (const TensorSpec& spec : model.table().tensors) writer.write(spec, model.tensor(spec));
  for (const LinearSpec& spec : model.table().linears) writer.write(spec, model.linear(spec));
  writer.set_kv_scales(model.kv_scales());
  writer.finish();
}

class LayoutGolden : public testing::TestWithParam<const char*> {
 protected:
  fs::path folder() const { return kGolden / "layouts" / GetParam(); }
  const TensorSet golden_ = TensorSet::open_file(kGolden / "layouts" / "canonical.safetensors");
};

TEST_P(LayoutGolden, ReadsEveryProjection) {
  const auto model = open_model(folder());
  for (const LinearSpec& spec : model->table().linears) {
    const LinearWeights whole = model->linear(spec);
    EXPECT_EQ(whole.group_size, model->quant().group_size);
    int64_t row = 0;
    for (const LinearSpec::Part& projection : spec.parts) {
      const std::string prefix = std::string(GetParam()) + "/" + projection.hf_name + ".";
      const LinearWeights own = part_rows(whole, row, projection.rows);
      EXPECT_EQ(own.format, model->quant().weights);
      for (const auto& [name, tensor] : {std::pair{"weight", own.weight},
                                         {"weight_scale", own.weight_scale},
                                         {"zero_point", own.zero_point},
                                         {"input_scale", own.input_scale},
                                         {"prequant_scale", own.prequant_scale}})
        expect_same(tensor, part(golden_, prefix + name), prefix + name);
      row += projection.rows;
    }
  }
  if (model->quant().fixed_kv) {
    EXPECT_EQ(model->kv_scales().fp8.at(0).k, 0.25f);
    EXPECT_EQ(model->kv_scales().fp8.at(0).v, 0.75f);
  }
}

TEST_P(LayoutGolden, WritesTheSameFile) {
  const TestFolder out;
  const auto model = open_model(folder());
  copy_model(*model, *create_checkpoint(options_like(*model, out / "made")));
  EXPECT_TRUE(read_file(out / "made/model.safetensors") == read_file(folder() / "model.safetensors"));
  EXPECT_EQ(open_model(out / "made")->quant(), model->quant());
}

// Every key of the description that other tools wrote is in ours, with the same value.
void expect_holds(const Json& ours, const Json& theirs, const std::string& where) {
  for (const auto& [key, value] : theirs.items()) {
    if (key == "producer") continue;
    ASSERT_TRUE(ours.contains(key) || value.is_null()) << where << ", " << key;
    if (!ours.contains(key)) continue;
    if (value.is_object())
      expect_holds(ours.at(key), value, where + ", " + key);
    else
      EXPECT_EQ(ours.at(key), value) << where << ", " << key;
  }
}

TEST_P(LayoutGolden, WritesTheSameDescription) {
  const TestFolder out;
  const auto model = open_model(folder());
  copy_model(*model, *create_checkpoint(options_like(*model, out / "made")));
  for (const char* file : {"config.json", "hf_quant_config.json"}) {
    EXPECT_EQ(fs::exists(out / "made" / file), fs::exists(folder() / file)) << file;
    if (!fs::exists(folder() / file)) continue;
    Json theirs = read_json(folder() / file);
    if (theirs.contains("quantization_config"))  // modelopt repeats some in config.json, some not
      for (const char* key : {"has_zero_point", "pre_quant_scale"}) theirs["quantization_config"].erase(key);
    expect_holds(read_json(out / "made" / file), theirs, file);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, LayoutGolden, testing::ValuesIn(kCases),
                         [](const auto& test) { return std::string(test.param); });

TEST(Layouts, QuantizationOfEachGolden) {
  const auto model = [](const char* name) { return open_model(kGolden / "layouts" / name); };
  EXPECT_EQ(model("modelopt_fp8")->layout(), Layout::modelopt);
  EXPECT_EQ(model("modelopt_fp8")->quant().fixed_kv, KvFormat::fp8);
  EXPECT_EQ(model("modelopt_int4_awq")->quant().group_size, 16);
  EXPECT_EQ(model("modelopt_int8")->quant().activations, ActivationScaling::static_tensor);
  EXPECT_EQ(model("compressed_fp8_static")->layout(), Layout::compressed_tensors);
  EXPECT_EQ(model("compressed_fp8_static")->quant().weight_scaling, WeightScaling::tensor);
  EXPECT_EQ(model("compressed_fp8_dynamic")->quant().weight_scaling, WeightScaling::channel);
  EXPECT_EQ(model("compressed_fp8_dynamic")->quant().activations, ActivationScaling::dynamic_token);
  EXPECT_EQ(model("compressed_int8")->quant().weights, WeightFormat::int8_sq);
  EXPECT_FALSE(model("compressed_int4")->quant().zero_points);
  EXPECT_TRUE(model("compressed_int4_zeros")->quant().zero_points);
  EXPECT_EQ(model("autoawq")->layout(), Layout::autoawq);
  EXPECT_TRUE(model("autoawq")->quant().zero_points);
}

TEST(Layouts, Int4PackingsGoBothWays) {
  NewTensor codes = new_tensor(DType::u8, {16, 12}), zeros = new_tensor(DType::u8, {16, 3});
  for (int i = 0; i < 16 * 12; ++i) codes.as<uint8_t>()[i] = static_cast<uint8_t>(i * 37 + 11);
  for (int i = 0; i < 16 * 3; ++i) zeros.as<uint8_t>()[i] = static_cast<uint8_t>((i * 7) % 16);
  expect_same(unpack_compressed_int4(pack_compressed_int4(codes.tensor)), codes.tensor, "compressed codes");
  expect_same(unpack_awq_int4(pack_awq_int4(codes.tensor)), codes.tensor, "awq codes");
  expect_same(unpack_compressed_zeros(pack_compressed_zeros(zeros.tensor), 16), zeros.tensor, "compressed zeros");
  expect_same(unpack_awq_zeros(pack_awq_zeros(zeros.tensor)), zeros.tensor, "awq zeros");
  // Of eight output features, AutoAWQ's bits 4 to 7 hold number 2.
  const uint32_t word = pack_awq_int4(codes.tensor).as<uint32_t>()[0];  // input 0, features 0 to 7
  EXPECT_EQ((word >> 4) & 15u, codes.as<uint8_t>()[2 * 12] & 15u);
  EXPECT_EQ((word >> 16) & 15u, codes.as<uint8_t>()[1 * 12] & 15u);
}

// What other writers do otherwise and is the same all the same.
TEST(Layouts, ReadsOtherSpellings) {
  const TestFolder out;
  const auto changed = [&](const char* name, const std::function<void(Json&)>& change) {
    const fs::path folder = out / (std::string(name) + std::to_string(std::rand()));
    fs::copy(kGolden / "layouts" / name, folder);
    Json config = read_json(folder / "config.json");
    change(config["quantization_config"]);
    write_file(folder / "config.json", config.dump());
    return open_model(folder)->quant();
  };
  const auto before = [](const char* name) { return open_model(kGolden / "layouts" / name)->quant(); };
  EXPECT_EQ(changed("autoawq",
                    [](Json& q) {
                      q.erase("bits"), q.erase("group_size");
                      q["w_bit"] = 4, q["q_group_size"] = 16, q["version"] = "GEMM";
                      q["modules_to_not_convert"] = {"lm_head"};
                    }),
            before("autoawq"));
  EXPECT_EQ(
      changed("compressed_int8", [](Json& q) { q["ignore"] = {"re:.*lm_head"}, q["format"] = "naive-quantized"; }),
      before("compressed_int8"));
  EXPECT_EQ(
      changed("compressed_int4", [](Json& q) { q["config_groups"]["group_0"]["weights"]["actorder"] = "static"; }),
      before("compressed_int4"));
  // Before version 0.31 modelopt said it in hf_quant_config.json only; later ones may leave that out.
  fs::copy(kGolden / "layouts/modelopt_fp8", out / "old");
  Json config = read_json(out / "old/config.json");
  config.erase("quantization_config");
  write_file(out / "old/config.json", config.dump());
  EXPECT_EQ(open_model(out / "old")->quant(), before("modelopt_fp8"));
  fs::copy(kGolden / "layouts/modelopt_fp8", out / "new");
  fs::remove(out / "new/hf_quant_config.json");
  EXPECT_EQ(open_model(out / "new")->quant(), before("modelopt_fp8"));
}

// Changes a copy of a golden folder and expects that it is refused.
void expect_refused(const char* name, const std::function<void(Json&)>& change, const std::string& reason) {
  const TestFolder out;
  fs::copy(kGolden / "layouts" / name, out / "m");
  fs::remove(out / "m/hf_quant_config.json");
  Json config = read_json(out / "m/config.json");
  change(config["quantization_config"]);
  write_file(out / "m/config.json", config.dump());
  expect_contains(error_of([&] { open_model(out / "m"); }), reason);
}

TEST(Layouts, RefusesConfigs) {
  const auto group = [](Json& q) -> Json& { return q["config_groups"]["group_0"]; };
  const auto refused = [&](const char* name, auto change, const std::string& reason) {
    expect_refused(name, change, reason);
  };
  refused(
      "modelopt_fp8", [](Json& q) { q["quant_algo"] = "NVFP4"; }, "\"NVFP4\", which is not read");
  refused(
      "modelopt_fp8", [](Json& q) { q["kv_cache_quant_algo"] = "INT8"; }, "\"INT8\", supported are FP8");
  refused(
      "modelopt_fp8",
      [](Json& q) {
        q["ignore"] = {"lm_head", "model.layers.0*"};
      },
      "left unquantized");
  refused(
      "modelopt_fp8", [](Json& q) { q["quant_algo"] = "W4A16_AWQ"; }, "does not fit a layer");
  refused(
      "modelopt_int4_awq", [](Json& q) { q["has_zero_point"] = true; }, "has_zero_point");
  refused(
      "modelopt_int4_awq", [](Json& q) { q["group_size"] = 8; }, "weight_scale has shape [32, 2]");
  refused(
      "compressed_fp8_static", [&](Json& q) { group(q)["weights"]["strategy"] = "block"; }, "strategy block");
  refused(
      "compressed_fp8_static", [&](Json& q) { group(q)["weights"]["num_bits"] = 16; }, "16-bit float weights");
  refused(
      "compressed_fp8_static", [&](Json& q) { group(q)["input_activations"]["type"] = "int"; }, "8-bit int activ");
  refused(
      "compressed_fp8_static", [&](Json& q) { group(q)["targets"] = {"re:.*mlp.*"}; }, "\"targets\"");
  refused(
      "compressed_fp8_static", [](Json& q) { q["config_groups"]["group_1"] = Json::object(); }, "2 groups");
  refused(
      "compressed_fp8_static", [](Json& q) { q["kv_cache_scheme"]["num_bits"] = 4; }, "kv_cache_scheme");
  refused(
      "compressed_fp8_static",
      [](Json& q) {
        q["transform_config"] = {{"config_groups", 1}};
      },
      "transform_config");
  refused(
      "compressed_fp8_static", [](Json& q) { q["kv_cache_scheme"] = nullptr; }, "not part of this architecture");
  refused(
      "compressed_int8", [&](Json& q) { group(q)["input_activations"] = nullptr; }, "16-bit activations");
  refused(
      "compressed_int4", [&](Json& q) { group(q)["weights"]["actorder"] = "group"; }, "\"actorder\": \"group\"");
  refused(
      "compressed_int4", [&](Json& q) { group(q)["weights"]["strategy"] = "channel"; }, "strategy channel");
  refused(
      "compressed_int4", [&](Json& q) { group(q)["weights"]["symmetric"] = false; }, "weight_zero_point is missing");
  refused(
      "compressed_int4", [](Json& q) { q["format"] = "marlin-24"; }, "marlin-24");
  refused(
      "autoawq", [](Json& q) { q["version"] = "gemv"; }, "\"gemv\"");
  refused(
      "autoawq", [](Json& q) { q["bits"] = 8; }, "8 bits");
  refused(
      "autoawq", [](Json& q) { q["zero_point"] = false; }, "without zero points");
  refused(
      "autoawq", [](Json& q) { q["group_size"] = 32; }, "does not fit a layer");
  refused(
      "autoawq", [](Json& q) { q["quant_method"] = "gptq"; }, "not read (\"gptq\")");
}

TEST(Layouts, RefuseWhatTheyCannotHold) {
  const TestFolder out;
  const auto refused = [&](const char* name, auto change, const std::string& reason) {
    WriterOptions options = options_like(*open_model(kGolden / "layouts" / name), out / "made");
    change(options);
    expect_contains(error_of([&] { create_checkpoint(options); }), reason);
    EXPECT_TRUE(fs::is_empty(out.path())) << reason;
  };
  refused(
      "autoawq", [](auto& o) { o.dtype = DType::bf16; }, "F16 throughout");
  refused(
      "autoawq", [](auto& o) { o.quant.prequant_scales = true; }, "prequant scales");
  refused(
      "autoawq", [](auto& o) { o.quant.fixed_kv = KvFormat::fp8; }, "no place for KV scales");
  refused(
      "autoawq", [](auto& o) { o.ranks = 2; }, "only the trtllm layout");
  refused(
      "modelopt_fp8", [](auto& o) { o.quant.fixed_kv = KvFormat::int8; }, "int8 KV cache");
  refused(
      "modelopt_fp8", [](auto& o) { o.quant.activations = ActivationScaling::dynamic_token; }, "cannot hold");
  refused(
      "compressed_int4", [](auto& o) { o.quant.group_size = 12; }, "multiple of 8");
  refused(
      "compressed_int8", [](auto& o) { o.quant.weight_scaling = WeightScaling::tensor; }, "per output channel");
  refused(
      "compressed_int8", [](auto& o) { o.quant.activations = ActivationScaling::none; }, "16-bit activations");
}

// Tensors that other files could have in a folder's place.
// A copy of a golden folder in which `change` was applied to one tensor and `more` (F32 [1]) was added.
std::unique_ptr<Checkpoint> with_other_tensor(const TestFolder& out, const char* name, const std::string& tensor,
                                              const std::function<void(NewTensor&)>& change,
                                              const std::vector<std::string>& more = {}) {
  fs::copy(kGolden / "layouts" / name, out / "m");
  const TensorSet stored = TensorSet::open_folder(kGolden / "layouts" / name);
  std::vector<TensorEntry> entries;
  for (const std::string& n : stored.names()) entries.push_back(*stored.find(n));
  for (const std::string& n : more) entries.push_back({n, DType::f32, {1}});
  SafetensorsWriter writer(out / "m/model.safetensors", entries);
  for (const std::string& n : stored.names()) {
    if (n != tensor) {
      writer.write(n, stored.get(n));
      continue;
    }
    const Tensor before = stored.get(n);
    NewTensor copy = new_tensor(before.dtype, before.shape);
    std::copy_n(before.data, before.bytes(), copy.data);
    change(copy);
    writer.write(n, copy.tensor);
  }
  for (const std::string& n : more) writer.write(n, tensor_from_f32(std::vector<float>{1}, {1}));
  writer.finish();
  return open_model(out / "m");
}

// As Hugging Face's reader does: some AutoAWQ folders hold them.
TEST(Layouts, TakeRopeFrequenciesThatAreStored) {
  const TestFolder out;
  const auto model = with_other_tensor(out, "autoawq", "", {}, {"model.layers.0.self_attn.rotary_emb.inv_freq"});
  EXPECT_EQ(model->layout(), Layout::autoawq);
}

// A group of zeros may have the scale 0 for readers, and so for `inspect`.
TEST(Layouts, InspectTakesWhatReadersTake) {
  const TestFolder out;
  const auto model = with_other_tensor(out, "compressed_int4", "model.layers.0.mlp.up_proj.weight_scale",
                                       [](NewTensor& t) { t.as<uint16_t>()[0] = t.as<uint16_t>()[1] = 0; });
  for (const LinearSpec& spec : model->table().linears) model->linear(spec);
  EXPECT_TRUE(inspect_checkpoint(*model).sound());
}

TEST(Layouts, RefusesWeights) {
  const auto changed = [](const char* name, const std::string& tensor, auto change) {
    const TestFolder out;
    const auto model = with_other_tensor(out, name, tensor, change);
    return error_of([&] {
      for (const LinearSpec& spec : model->table().linears) model->linear(spec);
    });
  };
  const std::string up = "model.layers.0.mlp.up_proj", k = "model.layers.0.self_attn.k_proj";
  expect_contains(changed("compressed_int4", up + ".weight_shape", [](NewTensor& t) { t.as<int64_t>()[0] = 7; }),
                  "weight_shape says [7, 32]");
  expect_contains(changed("compressed_int8", up + ".weight_scale", [](NewTensor& t) { t.as<float>()[3] = NAN; }),
                  "finite and above 0");
  expect_contains(changed("modelopt_fp8", up + ".input_scale", [](NewTensor& t) { t.as<float>()[0] = -1; }),
                  "finite and above 0");
  for (const char* name : {"modelopt_fp8", "compressed_fp8_static"})  // inputs are divided by it
    expect_contains(changed(name, up + ".input_scale", [](NewTensor& t) { t.as<float>()[0] = 0; }),
                    "finite and above 0");
  expect_contains(changed("modelopt_int8", k + ".pre_quant_scale", [](NewTensor& t) { t.as<uint16_t>()[0] ^= 64; }),
                  "scale it differently");
}

// q, k and v run as one: the greatest of their static scales clips nothing.
TEST(Layouts, JoinsPartsThatDiffer) {
  const auto model = open_model(kGolden / "layouts/compressed_fp8_static");
  const LinearSpec& spec = model->table().linear(LinearRole::qkv, 0);
  const LinearWeights whole = model->linear(spec);
  EXPECT_EQ(whole.weight_scale.shape, (Shape{spec.n}));  // a scale each for q, k and v: one a row
  std::vector<LinearWeights> parts{part_rows(whole, 0, 32), part_rows(whole, 32, 16), part_rows(whole, 48, 16)};
  EXPECT_EQ(parts[1].weight_scale.shape, (Shape{1}));
  parts[1].input_scale = tensor_from_f32(std::vector<float>{2.0f}, {1});
  std::vector<std::string> notes;
  EXPECT_EQ(to_f32(stack_parts(parts, "here", &notes).input_scale), std::vector<float>{2.0f});
  ASSERT_EQ(notes.size(), 1u);
  expect_contains(notes[0], "the greatest is used");
  parts[2].input_scale = {};
  expect_contains(error_of([&] { stack_parts(parts, "here"); }), "only some of the parts");
}

}  // namespace
}  // namespace qg
