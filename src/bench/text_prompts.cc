#include "bench/text_prompts.h"

#include <array>

#include "core/error.h"

namespace qg {
namespace {

constexpr size_t kFewestWords = 64;

// A blank and at least three letters of one case: no tokenizer joins two of these, and none is special.
bool is_word(const std::string& text) {
  if (text.size() < 4 || text.front() != ' ') return false;
  for (const char c : std::string_view(text).substr(1))
    if (c < 'a' || c > 'z') return false;
  return true;
}

}  // namespace

TextPrompts::TextPrompts(const Tokenizer& tokenizer) {
  for (TokenId id = 0; id < tokenizer.vocab_size(); ++id) {
    if (tokenizer.is_special(id)) continue;
    // Behind another token: tokenizers that mark the beginning of a word drop the blank of a text's first one.
    const std::array<TokenId, 2> twice{id, id};
    const std::string two = tokenizer.decode(twice);
    const size_t blank = two.rfind(' ');
    if (blank == std::string::npos) continue;
    const std::string word = two.substr(blank);
    if (!is_word(word)) continue;
    const auto is_two = [&](const std::string& text) {
      const std::vector<TokenId> again = tokenizer.encode(text, false);
      return again.size() == 2 && again[0] == id && again[1] == id;
    };
    if (is_two(word + word))
      words_.push_back(word);
    else if (is_two(word.substr(1) + word))  // a blank is put before every text
      words_.push_back(word), drop_first_blank_ = true;
  }
  if (words_.size() < kFewestWords)
    throw Error(
        "the tokenizer has too few tokens that are words by themselves, so prompts cannot be text of a known "
        "length",
        tokenizer.where(), "use token prompts");
}

TextPrompts::TextPrompts()
    : words_{" time",  " people", " water", " house",  " light", " world", " paper", " river", " music", " night",
             " table", " story",  " small", " large",  " green", " white", " black", " round", " early", " never",
             " often", " above",  " below", " under",  " after", " where", " which", " while", " there", " these",
             " their", " would",  " could", " should", " might", " place", " point", " state", " group", " great"} {}

std::string TextPrompts::text(std::span<const int32_t> ids) const {
  std::string text;
  for (const int32_t id : ids) text += words_[static_cast<size_t>(id) % words_.size()];
  if (drop_first_blank_ && !text.empty()) text.erase(0, 1);
  return text;
}

}  // namespace qg
