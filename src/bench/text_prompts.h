#pragma once
// Prompts of load_prompt() as text, for servers that take no token ids: each id becomes a word that is one token of the
// model, so that a text of n ids has n tokens again.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace qg {

class TextPrompts {
 public:
  // Words of this tokenizer. Throws Error when it has too few.
  explicit TextPrompts(const Tokenizer& tokenizer);
  // Without the model's tokenizer: common English words. How many tokens they are, the server says.
  TextPrompts();

  std::string text(std::span<const int32_t> ids) const;
  size_t words() const { return words_.size(); }

 private:
  std::vector<std::string> words_;  // a blank before each
  bool drop_first_blank_ = false;   // the tokenizer puts one before a text
};

}  // namespace qg
