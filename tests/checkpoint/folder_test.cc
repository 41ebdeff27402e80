// Folders that we write: what is in them, what is refused, and that nothing half-written is left.
#include <cmath>

#include "checkpoint/byte_tokenizer.h"
#include "checkpoint/inspect.h"
#include "checkpoint/kv_scales.h"
#include "checkpoint/synthetic.h"
#include "checkpoint/trtllm.h"
#include "model/open_model.h"
#include "tests/checkpoint/fixtures.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

WriterOptions writer_options(const fs::path& out, Layout layout) {
  WriterOptions options;
  options.out = out;
  options.layout = layout;
  options.table = make_model_table(tiny_shape());
  options.architecture = "LlamaForCausalLM";
  options.hf_rules = hf_rules_of_family("llama");
  return options;
}

void make_synthetic(const fs::path& out, SyntheticOptions options = {}, ModelShape shape = tiny_shape()) {
  write_synthetic_model(make_model_table(shape), hf_rules_of_family(shape.family), options, out);
}

TEST(Synthetic, OpensSoundAndIsDeterministic) {
  const TestFolder out;
  make_synthetic(out / "a");
  make_synthetic(out / "b");
  make_synthetic(out / "c", {.seed = 1});
  EXPECT_TRUE(read_file(out / "a/model.safetensors") == read_file(out / "b/model.safetensors"));
  EXPECT_FALSE(read_file(out / "a/model.safetensors") == read_file(out / "c/model.safetensors"));
  const auto model = open_model(out / "a");
  EXPECT_EQ(model->table().shape, tiny_shape());
  const Inspection inspection = inspect_checkpoint(*model);
  EXPECT_TRUE(inspection.sound());
  EXPECT_EQ(inspection.tensors, 3 + 2 * 9);
  EXPECT_EQ(inspection.embedding_bytes, 300 * 32 * 2);
  EXPECT_EQ(inspection.linear_bytes, tiny_shape().linear_params() * 2);
  EXPECT_EQ(model->lineage()->recipe["synthetic"], true);
  EXPECT_NE(model->weights_hash(), open_model(out / "c")->weights_hash());
}

TEST(Synthetic, WeightsHaveTheirDeviation) {
  const TestFolder out;
  make_synthetic(out / "a", {.dtype = DType::f32, .outliers = 2});
  const auto model = open_model(out / "a");
  EXPECT_EQ(model->dtype(), DType::f32);
  const auto deviation = [](const std::vector<float>& x) {
    double sum = 0, squares = 0;
    for (float v : x) sum += v, squares += double{v} * v;
    const double mean = sum / static_cast<double>(x.size());
    return std::sqrt(squares / static_cast<double>(x.size()) - mean * mean);
  };
  EXPECT_NEAR(deviation(to_f32(model->linear(model->table().linear(LinearRole::qkv, 0)).weight)), 1 / std::sqrt(32.0),
              0.01);
  EXPECT_NEAR(deviation(to_f32(model->linear(model->table().linear(LinearRole::down, 1)).weight)),
              1 / std::sqrt(48.0 * 4), 0.01);
  int outliers = 0;
  for (float v : to_f32(model->tensor(*model->table().find(TensorRole::mlp_norm, 1)))) outliers += v > 10;
  EXPECT_EQ(outliers, 2);
  for (float v : to_f32(model->tensor(*model->table().find(TensorRole::final_norm)))) EXPECT_LT(v, 2);
}

TEST(Synthetic, RefusesTooManyOutliersAndOldFolders) {
  const TestFolder out;
  expect_contains(error_of([&] { make_synthetic(out / "a", {.outliers = 17}); }), "17 outlier channels");
  EXPECT_TRUE(fs::is_empty(out.path()));
  make_synthetic(out / "a");
  expect_contains(error_of([&] { make_synthetic(out / "a"); }), "exists already");
}

TEST(ByteTokenizer, HasEveryByteOnce) {
  const auto files = byte_tokenizer_files(300);
  const Json vocab = Json::parse(files.at("tokenizer.json"))["model"]["vocab"];
  EXPECT_EQ(vocab.size(), 256u);
  EXPECT_EQ(vocab.at("A"), 65);
  EXPECT_EQ(vocab.at("\u0120"), 32);  // the space
  EXPECT_EQ(vocab.at("\u0100"), 0);
  EXPECT_EQ(vocab.at("\u00ff"), 255);
  EXPECT_EQ(vocab.at("\u0143"), 173);  // the soft hyphen does not print
  EXPECT_TRUE(byte_tokenizer_files(258).empty());
}

// Every tensor that goes in comes out, split and stacked again.
TEST(HuggingfaceWriter, RoundTrips) {
  const TestFolder out;
  make_synthetic(out / "a");
  const auto model = open_model(out / "a");
  const auto writer = create_checkpoint(writer_options(out / "b", Layout::huggingface));
  for (const LinearSpec& spec : model->table().linears) writer->write(spec, model->linear(spec));
  for (const TensorSpec& spec : model->table().tensors) writer->write(spec, model->tensor(spec));
  KvScales scales;
  scales.fp8 = {{0.5f, 0.25f}, {1, 2}};
  writer->set_kv_scales(scales);
  Lineage lineage;
  lineage.base_model = "a";
  lineage.base_hash = model->weights_hash();
  lineage.recipe = {{"z", 1}, {"a", 2}};
  lineage.seed = 7;
  writer->set_lineage(lineage);
  writer->copy_side_files(out / "a");
  writer->finish();

  const auto copy = open_model(out / "b");
  EXPECT_EQ(copy->weights_hash(), model->weights_hash());
  EXPECT_EQ(copy->kv_scales().fp8.at(1).v, 2);
  EXPECT_TRUE(copy->kv_scales().int8.empty());
  EXPECT_EQ(copy->lineage()->base_hash, model->weights_hash());
  EXPECT_EQ(copy->lineage()->seed, 7u);
  Lineage other = lineage;
  other.recipe = {{"a", 2}, {"z", 1}};
  EXPECT_EQ(copy->lineage()->recipe_hash(), other.recipe_hash());  // the order of keys means nothing
  other.recipe["a"] = 3;
  EXPECT_NE(lineage.recipe_hash(), other.recipe_hash());
  EXPECT_EQ(read_file(out / "a/tokenizer.json"), read_file(out / "b/tokenizer.json"));
}

// A folder of another writer: the parts of a stacked layer go back to their own names.
TEST(HuggingfaceWriter, SplitsWhatItStacked) {
  const TestFolder out;
  const auto model = open_model(kGolden / "models/llama-gqa3-tied-fp16");
  WriterOptions options = writer_options(out / "copy", Layout::huggingface);
  options.table = model->table();
  const auto writer = create_checkpoint(options);
  for (const LinearSpec& spec : model->table().linears) writer->write(spec, model->linear(spec));
  for (const TensorSpec& spec : model->table().tensors) writer->write(spec, model->tensor(spec));
  writer->finish();
  EXPECT_EQ(open_model(out / "copy")->weights_hash(), model->weights_hash());
}

TEST(Writers, LeaveNothingUnfinished) {
  const TestFolder out;
  for (const Layout layout : {Layout::huggingface, Layout::trtllm}) {
    {
      const auto writer = create_checkpoint(writer_options(out / "m", layout));
      expect_contains(error_of([&] { writer->finish(); }), "tensors were not written");
    }
    EXPECT_TRUE(fs::is_empty(out.path()));
  }
  for (const Layout layout : {Layout::modelopt, Layout::compressed_tensors, Layout::autoawq})
    expect_contains(error_of([&] { create_checkpoint(writer_options(out / "m", layout)); }), "layout cannot hold fp16");
  WriterOptions fp8 = writer_options(out / "m", Layout::huggingface);
  fp8.quant.weights = WeightFormat::fp8;
  expect_contains(error_of([&] { create_checkpoint(fp8); }), "holds fp16 weights only");
  EXPECT_TRUE(fs::is_empty(out.path()));
}

TEST(Writers, RemoveLeftoversOfAnEarlierRun) {
  const TestFolder out;
  fs::create_directories(out / "a.partial");
  write_file(out / "a.partial/rank7.safetensors", "half of it");
  make_synthetic(out / "a");
  EXPECT_FALSE(fs::exists(out / "a/rank7.safetensors"));
  EXPECT_FALSE(fs::exists(out / "a.partial"));
}

TEST(Writers, OneAtATimeMakesAFolder) {
  const TestFolder out;
  for (const Layout layout : {Layout::huggingface, Layout::trtllm}) {
    const auto first = create_checkpoint(writer_options(out / "m", layout));
    for (const char* name : {"m", "m/", "./m"})
      expect_contains(error_of([&] { create_checkpoint(writer_options(out.path() / name, layout)); }),
                      "another process is making it");
    expect_contains(error_of([&] { make_synthetic(out / "m"); }), "another process is making it");
    const ModelTable table = make_model_table(tiny_shape());
    const TensorSpec& norm = *table.find(TensorRole::final_norm);
    first->write(norm, tensor_from_f32(std::vector<float>(32, 1.f), {32}));  // its files are still there
    EXPECT_FALSE(fs::is_empty(out / "m.partial"));
  }
  EXPECT_TRUE(fs::is_empty(out.path()));
  make_synthetic(out / "m");
  EXPECT_EQ(std::distance(fs::directory_iterator(out.path()), {}), 1) << "the lock goes with the run";
}

TEST(Writers, WhatAppearsMeanwhileIsNotReplaced) {
  const TestFolder out;
  const auto model = open_model(kGolden / "models/llama-gqa3-tied-fp16");
  WriterOptions options = writer_options(out / "m", Layout::huggingface);
  options.table = model->table();
  for (const bool empty : {false, true}) {
    const auto writer = create_checkpoint(options);
    for (const LinearSpec& spec : model->table().linears) writer->write(spec, model->linear(spec));
    for (const TensorSpec& spec : model->table().tensors) writer->write(spec, model->tensor(spec));
    fs::create_directory(out / "m");
    if (empty) {
      writer->finish();
      EXPECT_EQ(open_model(out / "m")->weights_hash(), model->weights_hash());
      continue;
    }
    write_file(out / "m/notes.txt", "mine");
    expect_contains(error_of([&] { writer->finish(); }), "exists already");
    EXPECT_EQ(read_file(out / "m/notes.txt"), "mine");
    EXPECT_FALSE(fs::exists(out / "m/config.json"));
    fs::remove_all(out / "m");
  }
}

TEST(Writers, RefuseOverflow) {
  const TestFolder out;
  const auto writer = create_checkpoint(writer_options(out / "m", Layout::trtllm));
  const ModelTable table = make_model_table(tiny_shape());
  const TensorSpec& norm = *table.find(TensorRole::final_norm);
  expect_contains(error_of([&] { writer->write(norm, tensor_from_f32(std::vector<float>(32, 1e6f), {32})); }),
                  "overflow F16");
}

TEST(KvScales, RoundTripAndRefusals) {
  const TestFolder out;
  EXPECT_TRUE(read_kv_scales(out.path(), tiny_shape()).fp8.empty());
  ModelShape three = tiny_shape();
  three.layers = 3;
  KvScales scales;
  scales.int8 = {{1, 2}, {3, 4}};
  write_kv_scales(out.path(), scales, tiny_shape());
  EXPECT_EQ(read_kv_scales(out.path(), tiny_shape()).int8.at(1).k, 3);
  EXPECT_EQ(read_kv_scales(out.path(), tiny_shape()).int8.at(0).v, 2);
  expect_contains(error_of([&] { read_kv_scales(out.path(), three); }), "should be F32 [3]");
  expect_contains(error_of([&] { write_kv_scales(out.path(), scales, three); }), "the model has 3 layers");
  for (float bad : {0.0f, -1.0f, NAN, INFINITY}) {
    scales.int8[0].v = bad;
    expect_contains(error_of([&] { write_kv_scales(out.path(), scales, tiny_shape()); }), "finite and above 0");
  }
  SafetensorsWriter one(out / kKvScalesFile, {{"fp8.k", DType::f32, {2}}});
  one.write("fp8.k", tensor_from_f32(std::vector<float>{1, 1}, {2}));
  one.finish();
  expect_contains(error_of([&] { read_kv_scales(out.path(), tiny_shape()); }), "only one of fp8.k and fp8.v");
}

KvScales shaped_scales(const ModelShape& shape) {
  KvScales scales;
  const size_t n = static_cast<size_t>(shape.head_dim), heads = static_cast<size_t>(shape.kv_heads);
  for (int64_t layer = 0; layer < shape.layers; ++layer) {
    const float base = static_cast<float>(layer + 1);
    scales.fp8.push_back({base, 2 * base});
    scales.int8.push_back({3 * base, 4 * base});
    KvShaping shaping;
    shaping.fp8_k_scale = 5 * base;
    shaping.int8_k_scale = 6 * base;
    for (size_t i = 0; i < heads * n; ++i) shaping.k_center.push_back(base / 3 + static_cast<float>(i));
    for (size_t i = 0; i < heads * n * n; ++i) {
      const size_t row = i / n % n, column = i % n;
      shaping.k_transform.push_back(base + static_cast<float>(i % 64));
      shaping.q_transform.push_back(-base - static_cast<float>(i % 32));
      shaping.k_feedback.push_back(column > row ? base * 0.25f : 0.0f);
    }
    scales.shaping.push_back(std::move(shaping));
  }
  return scales;
}

TEST(KvShaping, RoundTrips) {
  const TestFolder out;
  const ModelShape shape = tiny_shape();
  const KvScales scales = shaped_scales(shape);
  write_kv_scales(out.path(), scales, shape);
  const KvScales back = read_kv_scales(out.path(), shape);
  ASSERT_EQ(back.shaping.size(), 2u);
  for (size_t i = 0; i < 2; ++i) {
    EXPECT_EQ(back.shaping[i].k_center, scales.shaping[i].k_center);
    EXPECT_EQ(back.shaping[i].k_transform, scales.shaping[i].k_transform);
    EXPECT_EQ(back.shaping[i].q_transform, scales.shaping[i].q_transform);
    EXPECT_EQ(back.shaping[i].k_feedback, scales.shaping[i].k_feedback);
    EXPECT_EQ(back.shaping[i].fp8_k_scale, scales.shaping[i].fp8_k_scale);
    EXPECT_EQ(back.shaping[i].int8_k_scale, scales.shaping[i].int8_k_scale);
    EXPECT_EQ(back.fp8[i].v, scales.fp8[i].v);
  }
}

TEST(KvShaping, RefusesWhatCannotBe) {
  const TestFolder out;
  const ModelShape shape = tiny_shape();
  const auto refusal = [&](const std::function<void(KvScales&)>& spoil) {
    KvScales scales = shaped_scales(shape);
    spoil(scales);
    return error_of([&] { write_kv_scales(out.path(), scales, shape); });
  };
  expect_contains(refusal([](KvScales& s) { s.shaping.pop_back(); }), "1 KV shapings, the model has 2 layers");
  expect_contains(refusal([](KvScales& s) { s.fp8.clear(); }), "need the fp8 and int8 scales of V");
  expect_contains(refusal([](KvScales& s) { s.shaping[1].k_center.pop_back(); }), "shaped.k_center of layer 1 has");
  expect_contains(refusal([](KvScales& s) { s.shaping[0].q_transform[3] = INFINITY; }), "infinite or not a number");
  expect_contains(refusal([](KvScales& s) { s.shaping[0].fp8_k_scale = 0; }), "finite and above 0");
  expect_contains(refusal([](KvScales& s) { s.shaping[1].k_feedback[0] = 1; }), "not zero on and left of its diagonal");
  EXPECT_FALSE(fs::exists(out / kKvScalesFile));

  // Files: one tensor missing, or of the wrong dtype or shape.
  const auto file_refusal = [&](const std::string& name, DType dtype, Shape dims) {
    SafetensorsWriter file(out / kKvScalesFile, {{name, dtype, dims}});
    file.write(name, tensor_from_f32(std::vector<float>(static_cast<size_t>(num_elements(dims)), 1.0f), dims, dtype));
    file.finish();
    return error_of([&] { read_kv_scales(out.path(), shape); });
  };
  expect_contains(file_refusal("shaped.k_center", DType::f32, {2, shape.kv_heads, shape.head_dim}), "but not");
  expect_contains(file_refusal("shaped.nothing", DType::f32, {2}), "is not known here");
  write_kv_scales(out.path(), shaped_scales(shape), shape);
  ModelShape other = shape;
  other.head_dim *= 2;
  expect_contains(error_of([&] { read_kv_scales(out.path(), other); }), "should be F32 [2, ");
}

// Scales in a file of their own, for a folder that has none.
TEST(KvShaping, OtherScalesThanTheFolders) {
  const TestFolder out;
  make_synthetic(out / "a");
  const std::shared_ptr<const Checkpoint> model = open_model(out / "a");
  const ModelShape& shape = model->table().shape;
  write_kv_scales_file(out / "kv.safetensors", shaped_scales(shape), shape, model->weights_hash());
  EXPECT_TRUE(model->kv_scales().fp8.empty());
  const auto with = with_kv_scales(model, out / "kv.safetensors", model->weights_hash());
  EXPECT_EQ(with->kv_scales().fp8.at(1).v, 4);
  EXPECT_EQ(with->kv_scales().shaping.size(), 2u);
  EXPECT_EQ(with->weights_hash(), model->weights_hash());
  expect_contains(error_of([&] { with_kv_scales(model, out / "kv.safetensors", "other"); }), "on other weights");
  expect_contains(error_of([&] { with_kv_scales(model, out / "none.safetensors"); }), "none.safetensors");
}

TEST(FixedKv, CopiesEverythingAndAddsTheScale) {
  const TestFolder out;
  fs::copy(kGolden / "trtllm/int4_awq", out / "open");
  KvScales scales;
  scales.fp8 = {{0.5f, 0.25f}};
  write_kv_scales(out / "open", scales, open_model(out / "open")->table().shape);
  rewrite_trtllm(*open_model(out / "open"), KvFormat::fp8, 0, out / "fixed");
  const auto before = open_model(out / "open"), after = open_model(out / "fixed");
  EXPECT_EQ(after->quant().fixed_kv, KvFormat::fp8);
  EXPECT_EQ(after->kv_scales().fp8.at(0).v, 0.5f);
  EXPECT_FALSE(fs::exists(out / "fixed/kv_scales.safetensors"));
  EXPECT_EQ(after->stored()->names().size(), before->stored()->names().size() + 1);
  for (const std::string& name : before->stored()->names())
    EXPECT_TRUE(bytes_of(before->stored()->get(name)) == bytes_of(after->stored()->get(name))) << name;
  expect_contains(error_of([&] { rewrite_trtllm(*before, KvFormat::int8, 0, out / "x"); }),
                  "no calibrated int8 KV scales");
  expect_contains(error_of([&] { rewrite_trtllm(*before, KvFormat::fp16, 0, out / "x"); }), "needs no fixed format");
  expect_contains(error_of([&] { rewrite_trtllm(*after, KvFormat::fp8, 0, out / "x"); }), "fixed already");
  EXPECT_FALSE(fs::exists(out / "x"));
  EXPECT_FALSE(fs::exists(out / "x.partial"));
}

// Of plain and of quantized folders alike: the shared matrix may be stored twice, but not as two matrices.
TEST(TiedHead, IsOneMatrixHoweverOftenItIsStored) {
  const TestFolder out;
  ModelShape shape = tiny_shape();
  shape.tied_embeddings = true;
  make_synthetic(out / "plain", {}, shape);
  fs::copy(kGolden / "layouts/modelopt_fp8", out / "quantized");
  for (const char* name : {"plain", "quantized"}) {
    const fs::path file = out / name / "model.safetensors";
    const std::string stored = read_file(file);
    const auto with_head = [&](bool same) {
      write_file(out / "before.safetensors", stored);
      const TensorSet before = TensorSet::open_file(out / "before.safetensors");
      std::vector<TensorEntry> entries;
      for (const std::string& tensor : before.names())
        entries.push_back({tensor, before.find(tensor)->dtype, before.find(tensor)->shape});
      const Tensor embedding = before.get("model.embed_tokens.weight");
      std::string bytes = bytes_of(embedding);
      if (!same) bytes.back() = static_cast<char>(bytes.back() ^ 1);
      Tensor head = embedding;
      head.data = reinterpret_cast<const std::byte*>(bytes.data());
      entries.push_back({"lm_head.weight", embedding.dtype, embedding.shape});
      SafetensorsWriter writer(file, entries);
      for (const std::string& tensor : before.names()) writer.write(tensor, before.get(tensor));
      writer.write("lm_head.weight", head);
      writer.finish();
    };
    with_head(true);
    EXPECT_NO_THROW(open_model(out / name)) << name;
    with_head(false);
    expect_contains(error_of([&] { open_model(out / name); }), "lm_head.weight is stored and differs");
  }
}

TEST(Inspect, FindsBrokenNumbers) {
  const TestFolder out;
  fs::copy(kGolden / "trtllm/fp8", out / "m");
  const auto sound = open_model(kGolden / "trtllm/fp8");
  const auto rewrite = [&](const std::string& broken, float value) {
    std::vector<TensorEntry> entries;
    for (const std::string& name : sound->stored()->names()) entries.push_back(*sound->stored()->find(name));
    SafetensorsWriter writer(out / "m/rank0.safetensors", entries);
    for (const std::string& name : sound->stored()->names()) {
      const Tensor tensor = sound->stored()->get(name);
      std::vector<float> values = to_f32(tensor);
      values.back() = value;
      writer.write(name, name == broken ? tensor_from_f32(values, tensor.shape, tensor.dtype) : tensor);
    }
    writer.finish();
    return inspect_checkpoint(*open_model(out / "m")).problems;
  };
  EXPECT_TRUE(inspect_checkpoint(*sound).sound());
  const std::string scale = "transformer.layers.0.mlp.fc.weights_scaling_factor";
  EXPECT_EQ(rewrite(scale, 1).size(), 0u);
  ASSERT_EQ(rewrite(scale, 0).size(), 1u);
  expect_contains(rewrite(scale, -1).at(0), "mlp.fc.weights_scaling_factor holds the scale -1");
  expect_contains(rewrite("transformer.vocab_embedding.weight", NAN).at(0), "infinite or not a number");
  const Json json = to_json(*sound, inspect_checkpoint(*sound));
  EXPECT_EQ(json["quantization"]["weights"], "fp8");
  EXPECT_EQ(json["sound"], true);
}

}  // namespace
}  // namespace qg
