#pragma once
// The regular expressions of tokenizer.json. The format means Oniguruma's dialect (Ruby syntax, Unicode); they are run
// by PCRE2 after translation of what the two read differently. A construct that may differ and is not translated is an
// Error, so that no text is split almost right.
#include <cstddef>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

namespace qg {

class Regex {
 public:
  // An Oniguruma pattern; `where` names its place in the file. Throws Error.
  Regex(std::string_view pattern, const std::string& where);

  // Calls on_match(begin, end) for each match from left to right; an empty match right after another match is passed
  // over. Text must be valid UTF-8. Throws Error when the pattern backtracks without end on this text.
  void each_match(std::string_view text, const std::function<void(size_t begin, size_t end)>& on_match) const;

 private:
  std::shared_ptr<const void> code_;  // pcre2_code
  std::string where_;
};

// The pattern as PCRE2 should read it (options UTF, UCP, MULTILINE). Throws Error.
std::string translate_regex(std::string_view pattern, const std::string& where);

// Unicode's word characters, as the regular expressions of added tokens mean them.
bool is_word_character(std::string_view character);

}  // namespace qg
