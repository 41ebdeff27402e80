// Prompts as text have as many tokens as ids went in.
#include "bench/text_prompts.h"

#include <gtest/gtest.h>

#include "bench/load.h"
#include "checkpoint/byte_tokenizer.h"
#include "core/error.h"
#include "core/json.h"

namespace qg {
namespace {

Tokenizer tokenizer_of(const Json& json) {
  return Tokenizer::from_json(json.dump(), "", "a test");
}

Json bytes_only() {
  return parse_json(byte_tokenizer_files(1024).at("tokenizer.json"), "bytes");
}

// The byte tokenizer with tokens for " " and three letters of bcdef, and one that is joined with what follows it.
Json with_words() {
  Json json = bytes_only();
  Json& vocab = json["model"]["vocab"];
  Json& merges = json["model"]["merges"];
  int next = 300;
  const std::string letters = "bcdef", blank = "\xc4\xa0";  // how byte-level tokenizers write a blank
  const auto merge = [&](const std::string& a, const std::string& b) {
    merges.push_back(a + " " + b);
    vocab[a + b] = next++;
  };
  for (char a : letters) merge(blank, {a});
  for (char a : letters)
    for (char b : letters) merge(blank + a, {b});
  for (char a : letters)
    for (char b : letters)
      for (char c : letters) merge(blank + a + b, {c});
  return json;
}

TEST(TextPrompts, AsManyTokensAsIds) {
  const Tokenizer tokenizer = tokenizer_of(with_words());
  const TextPrompts prompts(tokenizer);
  EXPECT_EQ(prompts.words(), 125u);
  for (int64_t isl : {1, 2, 17, 300}) {
    Load load;
    load.isl = isl;
    const std::string text = prompts.text(load_prompt(load, 3, 50000));
    EXPECT_EQ(static_cast<int64_t>(tokenizer.encode(text, false).size()), isl) << text;
  }
  Load load;
  EXPECT_NE(prompts.text(load_prompt(load, 0, 50000)), prompts.text(load_prompt(load, 1, 50000)));
}

TEST(TextPrompts, ATokenizerWithoutWordsIsRefused) {
  EXPECT_THROW(TextPrompts(tokenizer_of(bytes_only())), Error);
}

TEST(TextPrompts, WithoutATokenizerTheyAreCommonWords) {
  const TextPrompts prompts;
  const std::string text = prompts.text(std::vector<int32_t>{0, 1, 40, 41});
  EXPECT_EQ(text, " time people time people");
}

}  // namespace
}  // namespace qg
