// config.json in all its spellings, and what must be refused by name.
#include "checkpoint/hf_config.h"

#include "tests/checkpoint/fixtures.h"

namespace qg {
namespace {

Json llama() {
  return Json::parse(R"({"architectures":["LlamaForCausalLM"],"model_type":"llama","hidden_size":64,
    "num_hidden_layers":2,"num_attention_heads":8,"intermediate_size":128,"vocab_size":300,"rms_norm_eps":1e-5,
    "max_position_embeddings":256,"torch_dtype":"bfloat16"})");
}

HfConfig parse(const Json& config, const char* family = "llama") {
  return parse_hf_config(config, "config.json", hf_rules_of_family(family));
}

HfConfig with(const char* key, const Json& value, const char* family = "llama") {
  Json config = llama();
  config[key] = value;
  return parse(config, family);
}

void expect_refused(const char* key, const Json& value, const std::string& reason, const char* family = "llama") {
  SCOPED_TRACE(std::string(key) + " = " + value.dump());
  expect_contains(error_of([&] { with(key, value, family); }), reason);
}

TEST(HfConfig, TakesDefaults) {
  const HfConfig c = parse(llama());
  EXPECT_EQ(c.dtype, DType::bf16);
  EXPECT_EQ(c.shape.kv_heads, 8);
  EXPECT_EQ(c.shape.head_dim, 8);
  EXPECT_EQ(c.shape.rope_theta, 10000);
  EXPECT_FALSE(c.shape.tied_embeddings);
  EXPECT_FALSE(c.shape.rope_scaling);
  EXPECT_EQ(with("rms_norm_eps", nullptr).shape.norm_epsilon, 1e-6);
  EXPECT_EQ(with("sliding_window", 7).shape.sliding_window, std::nullopt);  // means nothing to a Llama
}

TEST(HfConfig, ReadsBothSpellings) {
  EXPECT_EQ(with("dtype", "float16").dtype, DType::f16);
  EXPECT_EQ(with("rope_theta", 5e5).shape.rope_theta, 5e5);
  EXPECT_EQ(with("rope_parameters", {{"rope_theta", 7e5}, {"rope_type", "default"}}).shape.rope_theta, 7e5);
  const Json scaling{{"rope_type", "llama3"},
                     {"factor", 8},
                     {"low_freq_factor", 1},
                     {"high_freq_factor", 4},
                     {"original_max_position_embeddings", 64}};
  const RopeScaling wanted{8, 1, 4, 64};
  EXPECT_EQ(with("rope_scaling", scaling).shape.rope_scaling, wanted);
  Json old = scaling;
  old.erase("rope_type");
  old["type"] = "llama3";
  EXPECT_EQ(with("rope_scaling", old).shape.rope_scaling, wanted);
  Json nested = scaling;
  nested["rope_theta"] = 5e5;
  EXPECT_EQ(with("rope_parameters", nested).shape.rope_scaling, wanted);
  EXPECT_EQ(with("rope_parameters", nested).shape.rope_theta, 5e5);
  EXPECT_EQ(with("head_dim", 24).shape.head_dim, 24);
  EXPECT_EQ(with("head_dim", nullptr).shape.head_dim, 8);
  EXPECT_TRUE(with("tie_word_embeddings", true).shape.tied_embeddings);
}

TEST(HfConfig, MistralWindows) {
  EXPECT_EQ(parse(llama(), "mistral").shape.sliding_window, 4096);  // as transformers takes an absent key
  EXPECT_EQ(parse(llama(), "mistral").shape.kv_heads, 8);
  EXPECT_EQ(with("sliding_window", nullptr, "mistral").shape.sliding_window, std::nullopt);
  EXPECT_EQ(with("sliding_window", 16, "mistral").shape.sliding_window, 16);
  EXPECT_EQ(with("layer_types", {"full_attention", "full_attention"}, "mistral").shape.sliding_window, std::nullopt);
  EXPECT_EQ(with("layer_types", {"sliding_attention", "sliding_attention"}, "mistral").shape.sliding_window, 4096);
  expect_refused("layer_types", {"full_attention", "sliding_attention"}, "mixes kinds", "mistral");
  expect_refused("sliding_window", 0, "between 1", "mistral");
}

TEST(HfConfig, RefusesOtherModels) {
  expect_refused("hidden_act", "gelu", "\"hidden_act\" is \"gelu\"");
  expect_refused("attention_bias", true, "\"attention_bias\" is true");
  expect_refused("mlp_bias", true, "\"mlp_bias\" is true");
  expect_refused("partial_rotary_factor", 0.5, "partial_rotary_factor");
  expect_refused("torch_dtype", "int8", "dtype \"int8\"");
  for (const char* type : {"linear", "dynamic", "yarn", "longrope"})
    expect_refused("rope_scaling", {{"rope_type", type}, {"factor", 2}}, std::string("RoPE scaling \"") + type + "\"");
  expect_refused("rope_scaling", {{"rope_type", "llama3"}}, "\"factor\" is missing");
  expect_refused("rope_scaling",
                 {{"rope_type", "llama3"},
                  {"factor", 8},
                  {"low_freq_factor", 4},
                  {"high_freq_factor", 4},
                  {"original_max_position_embeddings", 64}},
                 "low_freq_factor");
  EXPECT_EQ(with("pretraining_tp", 4).shape.layers, 2);  // changes nothing
}

TEST(HfConfig, RefusesConflicts) {
  Json config = llama();
  config["rope_theta"] = 1e4;
  config["rope_parameters"] = {{"rope_theta", 5e5}};
  expect_contains(error_of([&] { parse(config); }), "in \"rope_parameters\"");
}

TEST(HfConfig, RefusesBadNumbers) {
  for (const char* key :
       {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"}) {
    expect_refused(key, nullptr, std::string("\"") + key + "\" is missing");
    expect_refused(key, 0, "should be between 1");
    expect_refused(key, -3, "should be between 1");
    expect_refused(key, 1e18, "should be");
    expect_refused(key, int64_t{1} << 60, "should be between 1");
    expect_refused(key, "64", "whole number");
  }
  expect_refused("num_attention_heads", 7, "not a multiple");
  expect_refused("num_key_value_heads", 3, "not a multiple of 3 KV heads");
  expect_refused("head_dim", 7, "odd");
  expect_refused("rope_theta", 0, "RoPE base");
  expect_refused("rope_theta", -1.0, "RoPE base");
  expect_refused("rms_norm_eps", -1.0, "epsilon");
  expect_refused("tie_word_embeddings", "yes", "true or false");
}

TEST(HfConfig, ArchitecturesAndMethods) {
  EXPECT_EQ(hf_architecture(llama(), "c"), "LlamaForCausalLM");
  EXPECT_EQ(family_of_architecture("MistralForCausalLM"), "mistral");
  EXPECT_EQ(family_of_architecture("GPT2LMHeadModel"), std::nullopt);
  EXPECT_EQ(architecture_of_family("llama"), "LlamaForCausalLM");
  expect_contains(error_of([] { hf_rules_of_family("gpt2"); }), "\"gpt2\" is not known");
  expect_contains(error_of([] { hf_architecture(Json::object(), "c"); }), "\"architectures\" is missing");
  EXPECT_EQ(hf_quant_method(llama()), std::nullopt);
  EXPECT_EQ(hf_quant_method({{"quantization_config", {{"quant_method", "awq"}}}}), "awq");
  EXPECT_EQ(hf_quant_method({{"quantization_config", {{"bits", 4}}}}), "unnamed");
}

TEST(HfConfig, WritesWhatItReads) {
  ModelShape shape = tiny_shape();
  shape.rope_scaling = RopeScaling{32, 1, 4, 8192};
  shape.rope_theta = 500000;
  for (const char* family : {"llama", "mistral"}) {
    shape.family = family;
    if (shape.family == "mistral") shape.sliding_window = 16;
    const Json written = make_hf_config(shape, DType::f16, hf_rules_of_family(family));
    EXPECT_EQ(parse(written, family).shape, shape);
    EXPECT_EQ(parse(written, family).dtype, DType::f16);
  }
}

}  // namespace
}  // namespace qg
