// Expected texts are what the official templates of these models write; they were put down by hand from the models'
// published prompt formats.
#include "tokenizer/chat.h"

#include <gtest/gtest.h>

#include "core/error.h"
#include "core/json.h"

namespace qg {
namespace {

// A tokenizer of one letter with the given special tokens and template.
Tokenizer make(const std::vector<std::string>& specials, const std::string& jinja, const std::string& bos = "",
               const std::string& eos = "") {
  Json json = Json::parse(R"({"added_tokens": [], "model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}})");
  for (size_t i = 0; i < specials.size(); ++i)
    json["added_tokens"].push_back({{"id", i + 1}, {"content", specials[i]}, {"special", true}});
  Json config{{"chat_template", jinja}};
  if (!bos.empty()) config["bos_token"] = bos;
  if (!eos.empty()) config["eos_token"] = eos;
  return Tokenizer::from_json(json.dump(), config.dump(), "model/tokenizer.json");
}

using Messages = std::vector<ChatMessage>;

const Messages kAsked = {{"user", " What is 2+2? "}};
const Messages kLong = {{"system", "Be brief."}, {"user", "Hi"}, {"assistant", " Hello. "}, {"user", "Bye"}};

Tokenizer smollm2() {
  return make(
      {"<|im_start|>", "<|im_end|>"},
      "{% for m in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nYou "
      "are a test.<|im_end|>\n' }}{% endif %}{{'<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>' + "
      "'\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}");
}

TEST(Chat, ChatmlWithTheTemplatesOwnSystemMessage) {
  const Tokenizer tokenizer = smollm2();
  EXPECT_EQ(chat_family(tokenizer), ChatFamily::chatml);
  EXPECT_EQ(render_chat(tokenizer, kAsked, true),
            "<|im_start|>system\nYou are a test.<|im_end|>\n<|im_start|>user\n What is 2+2? <|im_end|>\n"
            "<|im_start|>assistant\n");
  EXPECT_EQ(render_chat(tokenizer, kLong, false),
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n Hello. "
            "<|im_end|>\n<|im_start|>user\nBye<|im_end|>\n");
}

TEST(Chat, ChatmlWithoutADefaultOrWithAnEscapedOne) {
  const std::vector<std::string> specials = {"<|im_start|>", "<|im_end|>"};
  EXPECT_EQ(render_chat(make(specials, "{{ '<|im_start|>' + role }}"), kAsked, false),
            "<|im_start|>user\n What is 2+2? <|im_end|>\n");
  const std::string two =
      R"({{ '<|im_start|>system\n' + system + '<|im_end|>' }}{{ '<|im_start|>system\nA\nB<|im_end|>\n' }})";
  EXPECT_EQ(render_chat(make(specials, two), kAsked, false),
            "<|im_start|>system\nA\nB<|im_end|>\n<|im_start|>user\n What is 2+2? <|im_end|>\n");
}

const std::vector<std::string> kLlama3 = {"<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>",
                                          "<|eot_id|>"};

TEST(Chat, Llama31WritesDates) {
  const Tokenizer tokenizer =
      make(kLlama3, "{{- \"<|start_header_id|>system\" }}{{- \"Cutting Knowledge Date: December 2023\\n\" }}",
           "<|begin_of_text|>", "<|eot_id|>");
  EXPECT_EQ(chat_family(tokenizer), ChatFamily::llama3);
  EXPECT_EQ(
      render_chat(tokenizer, kAsked, true),
      "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday "
      "Date: 26 Jul 2024\n\n<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nWhat is "
      "2+2?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n");
  EXPECT_EQ(
      render_chat(tokenizer, kLong, false, {.date = "22 Nov 2026"}),
      "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\nToday "
      "Date: 22 Nov 2026\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
      "<|start_header_id|>assistant<|end_header_id|>\n\nHello.<|eot_id|><|start_header_id|>user<|end_header_id|>"
      "\n\nBye<|eot_id|>");
}

TEST(Chat, Llama3WithoutDates) {
  const Tokenizer tokenizer = make(kLlama3, "{{ '<|start_header_id|>' }}", "<|begin_of_text|>");
  EXPECT_EQ(render_chat(tokenizer, kAsked, false),
            "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nWhat is 2+2?<|eot_id|>");
}

const char* const kMistralTemplate = R"({{- "[INST] " + message["content"] + "[/INST]" }})";

TEST(Chat, MistralPutsTheSystemMessageIntoTheLastQuestion) {
  const Tokenizer tokenizer = make({"<s>", "</s>", "[INST]", "[/INST]"}, kMistralTemplate, "<s>", "</s>");
  EXPECT_EQ(chat_family(tokenizer), ChatFamily::mistral);
  EXPECT_EQ(render_chat(tokenizer, kAsked, true), "<s>[INST]  What is 2+2? [/INST]");
  EXPECT_EQ(render_chat(tokenizer, kLong, true), "<s>[INST] Hi[/INST] Hello.</s>[INST] Be brief.\n\nBye[/INST]");
}

TEST(Chat, Llama2PutsTheSystemMessageIntoTheFirstQuestion) {
  const Tokenizer tokenizer = make({"<s>", "</s>"}, "[INST] <<SYS>> [/INST]", "<s>", "</s>");
  EXPECT_EQ(chat_family(tokenizer), ChatFamily::llama2);
  EXPECT_EQ(render_chat(tokenizer, kAsked, true), "<s>[INST] What is 2+2? [/INST]");
  EXPECT_EQ(render_chat(tokenizer, kLong, true),
            "<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST] Hello. </s><s>[INST] Bye [/INST]");
}

TEST(Chat, SpecialTokensOfTheTextAreEncodedAsSuch) {
  const Tokenizer tokenizer = make(kLlama3, "<|start_header_id|>", "<|begin_of_text|>");
  const Messages messages = {{"user", "a"}};
  EXPECT_EQ(tokenizer.encode(render_chat(tokenizer, messages, false), false), (std::vector<TokenId>{1, 2, 3, 0, 4}));
}

void expect_error(const Tokenizer& tokenizer, const Messages& messages, const std::string& part) {
  try {
    render_chat(tokenizer, messages, true);
    FAIL() << "no error, wanted: " << part;
  } catch (const Error& e) {
    EXPECT_NE(e.problem().find(part), std::string::npos) << e.problem();
  }
}

TEST(Chat, WhatCannotBeRenderedIsAnError) {
  expect_error(make({}, ""), kAsked, "has none");
  expect_error(make({}, "{{ '<|user|>' }}"), kAsked, "not one of the known families");
  expect_error(make({}, "{{ '[INST] ' + x + ' [/INST]' }}"), kAsked, "not one of the known families");  // before v0.3
  // Nemo's and Phi-4's: much like Mistral v0.3 and ChatML, with other characters between the parts.
  expect_error(make({"[INST]", "[/INST]"}, R"({{- "[INST]" + x + "[/INST]" }})"), kAsked, "not one of the known");
  expect_error(make({"<|im_start|>", "<|im_end|>"}, "{{ '<|im_start|>user<|im_sep|>' + x + '<|im_end|>' }}"), kAsked,
               "not one of the known families");
  expect_error(make({}, kMistralTemplate), kAsked, "[INST], which is no token");
  expect_error(make({}, "<|im_start|>"), kAsked, "<|im_start|>, which is no token");
  expect_error(make({}, "<|start_header_id|>"), kAsked, "no token");
  expect_error(smollm2(), {}, "at least one message");
  expect_error(smollm2(), {{"tool", "x"}}, "\"tool\"");
  expect_error(smollm2(), {{"user", "\xFF"}}, "UTF-8");
  const Tokenizer mistral = make({"<s>", "[INST]", "[/INST]"}, kMistralTemplate, "<s>");
  expect_error(mistral, {{"assistant", "x"}}, "roles must be user");
  expect_error(mistral, {{"user", "x"}, {"user", "y"}}, "roles must be user");
  expect_error(mistral, {{"user", "x"}, {"assistant", "y"}}, "eos");
}

}  // namespace
}  // namespace qg
