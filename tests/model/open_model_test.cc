// Which folders open, and what the others are told.
#include "model/open_model.h"

#include <cstdlib>

#include "checkpoint/synthetic.h"
#include "tests/checkpoint/fixtures.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

TEST(OpenModel, OpensEveryGoldenModel) {
  int opened = 0;
  for (const auto& entry : fs::directory_iterator(kGolden / "models")) {
    if (!entry.is_directory()) continue;
    SCOPED_TRACE(entry.path().filename().string());
    const auto model = open_model(entry.path());
    const ModelShape& shape = model->table().shape;
    EXPECT_EQ(model->layout(), Layout::huggingface);
    EXPECT_EQ(read_model_shape(entry.path()), shape);
    EXPECT_EQ(static_cast<int64_t>(model->table().linears.size()), 5 * shape.layers);
    EXPECT_EQ(model->table().find(TensorRole::lm_head) == nullptr, shape.tied_embeddings);
    for (const TensorSpec& spec : model->table().tensors) EXPECT_EQ(model->tensor(spec).shape, spec.shape);
    for (const LinearSpec& spec : model->table().linears)
      EXPECT_EQ(model->linear(spec).weight.shape, (Shape{spec.n, spec.k}));
    ++opened;
  }
  EXPECT_GE(opened, 6);
}

TEST(OpenModel, StacksQueryKeyValue) {
  const auto model = open_model(kGolden / "models/llama-gqa3-tied-fp16");
  const LinearSpec& spec = model->table().linear(LinearRole::qkv, 1);
  std::string wanted;
  for (const char* part : {"q", "k", "v"})
    wanted += bytes_of(model->stored()->get(std::string("model.layers.1.self_attn.") + part + "_proj.weight"));
  EXPECT_TRUE(bytes_of(model->linear(spec).weight) == wanted);
  // A layer of one part is a view on the file, not a copy.
  const LinearSpec& down = model->table().linear(LinearRole::down, 0);
  EXPECT_EQ(model->linear(down).weight.data, model->stored()->get("model.layers.0.mlp.down_proj.weight").data);
}

// A folder with the given files, all of them holding `{}` unless told.
std::string refusal(std::initializer_list<std::pair<const char*, const char*>> files) {
  const TestFolder folder;
  for (const auto& [name, text] : files) write_file(folder / name, text);
  return error_of([&] { open_model(folder.path()); });
}

constexpr const char* kLlama = R"({"architectures":["LlamaForCausalLM"]})";

TEST(OpenModel, NamesWhatItDoesNotRead) {
  expect_contains(refusal({}), "holds no config.json");
  expect_contains(refusal({{"config.json", "{}"}}), "neither \"architectures\"");
  expect_contains(refusal({{"config.json", "[]"}}), "should be a JSON object");
  expect_contains(refusal({{"config.json", "{"}}), "not valid JSON");
  expect_contains(refusal({{"config.json", R"({"a":1,"a":2})"}}), "\"a\" appears twice");
  expect_contains(refusal({{"config.json", kLlama}}), "holds no safetensors weights");
  expect_contains(refusal({{"config.json", kLlama}, {"pytorch_model.bin", "x"}}),
                  "PyTorch pickle weights (pytorch_model.bin)");
  expect_contains(refusal({{"config.json", kLlama}, {"pytorch_model.bin.index.json", "{}"}}), "PyTorch pickle weights");
  expect_contains(refusal({{"pytorch_model-00001-of-00002.bin", "x"}}), "not safetensors");
  expect_contains(refusal({{"model.Q4_K_M.gguf", "x"}}), "GGUF weights (model.Q4_K_M.gguf)");
  expect_contains(refusal({{"consolidated.00.pth", "x"}, {"params.json", "{}"}}),
                  "PyTorch weights (consolidated.00.pth)");
  expect_contains(refusal({{"params.json", "{}"}, {"consolidated.safetensors", "x"}}), "maker's own format");
  expect_contains(refusal({{"adapter_config.json", "{}"}, {"adapter_model.safetensors", "x"}}), "is an adapter");
  expect_contains(refusal({{"rank0.engine", "x"}}), "built TensorRT engine");
  expect_contains(refusal({{"config.json", R"({"pretrained_config":{},"build_config":{}})"}}), "built TensorRT engine");
  expect_contains(refusal({{"config.json", R"({"architectures":["GPT2LMHeadModel"]})"}, {"model.safetensors", "x"}}),
                  "architecture \"GPT2LMHeadModel\" is not supported");
  const auto quantized = [](const char* method) {
    return refusal(
        {{"config.json", (R"({"architectures":["LlamaForCausalLM"],"quantization_config":{"quant_method":")" +
                          std::string(method) + "\"}}")
                             .c_str()}});
  };
  for (const char* method : {"gptq", "bitsandbytes", "fp8"})
    expect_contains(quantized(method), std::string("method that is not read (\"") + method + "\")");
  for (const char* method : {"awq", "modelopt", "compressed-tensors"})
    expect_contains(quantized(method), "holds no safetensors weights");
  const TestFolder folder;
  write_file(folder / "m.gguf", "GGUF");
  expect_contains(error_of([&] { open_model(folder / "m.gguf"); }), "is a GGUF file");
  expect_contains(error_of([&] { open_model(folder / "nothing"); }), "no such folder");
}

// A copy of a golden model whose config.json is changed.
std::string refusal_of_config(const std::function<void(Json&)>& change) {
  const TestFolder folder;
  fs::copy(kGolden / "models/llama-gqa3-tied-fp16", folder / "m");
  Json config = read_json(folder / "m/config.json");
  change(config);
  write_file(folder / "m/config.json", config.dump());
  return error_of([&] { open_model(folder / "m"); });
}

TEST(OpenModel, HoldsConfigAndTensorsAgainstEachOther) {
  expect_contains(refusal_of_config([](Json& c) { c["num_hidden_layers"] = 3; }), "model.layers.2.");
  expect_contains(refusal_of_config([](Json& c) { c["num_hidden_layers"] = 1; }), "is not part of this architecture");
  expect_contains(refusal_of_config([](Json& c) { c["vocab_size"] = 332; }),
                  "has shape [331, 72], config.json asks for [332, 72]");
  expect_contains(refusal_of_config([](Json& c) { c["tie_word_embeddings"] = false; }), "lm_head.weight is missing");
  expect_contains(refusal_of_config([](Json& c) { c["num_key_value_heads"] = 9; }), "more problems");
}

TEST(OpenModel, AcceptsATiedHeadThatIsStoredTwice) {
  const TestFolder folder;
  fs::copy(kGolden / "models/llama-gqa3-tied-fp16", folder / "m");
  const auto model = open_model(folder / "m");
  const auto rewrite = [&](bool same) {
    std::vector<TensorEntry> entries;
    for (const std::string& name : model->stored()->names()) entries.push_back(*model->stored()->find(name));
    const Tensor embedding = model->stored()->get("model.embed_tokens.weight");
    entries.push_back({"lm_head.weight", embedding.dtype, embedding.shape});
    SafetensorsWriter writer(folder / "m/model.safetensors", entries);
    for (const std::string& name : model->stored()->names()) writer.write(name, model->stored()->get(name));
    writer.write("lm_head.weight",
                 same ? embedding : tensor_from_f32(std::vector<float>(331 * 72, 1), {331, 72}, DType::f16));
    writer.finish();
  };
  rewrite(true);
  EXPECT_EQ(open_model(folder / "m")->table().find(TensorRole::lm_head), nullptr);
  rewrite(false);
  expect_contains(error_of([&] { open_model(folder / "m"); }), "lm_head.weight is stored and differs");
}

TEST(ModelTable, NamesAndGroups) {
  ModelShape shape = tiny_shape();
  const ModelTable table = make_model_table(shape);
  EXPECT_EQ(table.tensors.size(), 2u + 1u + 2u * 2u);
  const LinearSpec& qkv = table.linear(LinearRole::qkv, 1);
  EXPECT_EQ(qkv.n, 64 + 2 * 32);
  EXPECT_EQ(qkv.parts.at(1).hf_name, "model.layers.1.self_attn.k_proj");
  EXPECT_EQ(qkv.calibration_group, "layers.1.attention_in");
  EXPECT_EQ(qkv.producer_norm, TensorRole::attention_norm);
  EXPECT_EQ(table.linear(LinearRole::gate, 0).trtllm_name, "transformer.layers.0.mlp.fc");
  EXPECT_EQ(table.linear(LinearRole::gate, 0).parts.at(0).hf_name, "model.layers.0.mlp.gate_proj");
  EXPECT_EQ(table.linear(LinearRole::up, 0).trtllm_name, "transformer.layers.0.mlp.gate");
  EXPECT_EQ(table.linear(LinearRole::up, 0).calibration_group, table.linear(LinearRole::gate, 0).calibration_group);
  EXPECT_EQ(table.linear(LinearRole::down, 0).producer_linear, LinearRole::up);
  EXPECT_EQ(table.linear(LinearRole::attention_output, 0).producer_linear, LinearRole::qkv);
  EXPECT_EQ(table.linear(LinearRole::attention_output, 0).calibration_group, "layers.0.attention_out");
  EXPECT_EQ(table.linear(LinearRole::down, 0).calibration_group, "layers.0.mlp_act");
  shape.family = "gpt";
  expect_contains(error_of([&] { make_model_table(shape); }), "\"gpt\" is not known");
  shape = tiny_shape();
  shape.kv_heads = 3;
  expect_contains(error_of([&] { make_model_table(shape); }), "not a multiple of 3");
}

class HfCache : public testing::Test {
 protected:
  HfCache() {
    setenv("HF_HUB_CACHE", folder_.path().c_str(), 1);
    const fs::path model = folder_ / "models--org--name";
    fs::create_directories(model / "refs");
    fs::create_directories(model / "snapshots/abc123");
    fs::create_directories(model / "snapshots/def456");
    write_file(model / "refs/main", "abc123\n");
  }
  ~HfCache() override { unsetenv("HF_HUB_CACHE"); }
  TestFolder folder_;
};

TEST_F(HfCache, FindsSnapshots) {
  const fs::path snapshots = folder_ / "models--org--name/snapshots";
  EXPECT_EQ(resolve_model("org/name"), snapshots / "abc123");
  EXPECT_EQ(resolve_model("org/name@main"), snapshots / "abc123");
  EXPECT_EQ(resolve_model("org/name@def456"), snapshots / "def456");
  EXPECT_EQ(resolve_model(folder_.path().string()), folder_.path());
  expect_contains(error_of([] { resolve_model("org/name@v9"); }), "revision \"v9\" is not");
  expect_contains(error_of([] { resolve_model("org/other"); }), "looked for");
  expect_contains(error_of([] { resolve_model("no-such-folder"); }), "no such folder");
  expect_contains(error_of([] { resolve_model("../etc/passwd9"); }), "no such folder");
  write_file(folder_ / "models--org--name/refs/main", "../../..");
  expect_contains(error_of([] { resolve_model("org/name"); }), "revision \"main\" is not");
}

TEST_F(HfCache, LooksWhereTheVariablesSay) {
  unsetenv("HF_HUB_CACHE");
  setenv("HF_HOME", "/hf-home", 1);
  expect_contains(error_of([] { resolve_model("org/name"); }), "/hf-home/hub/models--org--name");
  unsetenv("HF_HOME");
  setenv("XDG_CACHE_HOME", "/xdg", 1);
  expect_contains(error_of([] { resolve_model("org/name"); }), "/xdg/huggingface/hub/models--org--name");
  unsetenv("XDG_CACHE_HOME");
}

}  // namespace
}  // namespace qg
