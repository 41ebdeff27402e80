#include <algorithm>
#include <cctype>

#include "core/error.h"
#include "tokenizer/regex.h"

namespace qg {
namespace {

// PCRE2's \s also takes U+180E, which is no white space since Unicode 6.3.
constexpr std::string_view kSpaces =
    R"(\t-\r\x20\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000})";
constexpr std::string_view kNoSpaces =
    R"(\x00-\x08\x0E-\x1F\x21-\x{84}\x{86}-\x{9F}\x{A1}-\x{167F}\x{1681}-\x{1FFF}\x{200B}-\x{2027}\x{202A}-\x{202E})"
    R"(\x{2030}-\x{205E}\x{2060}-\x{2FFF}\x{3001}-\x{10FFFF})";
// Oniguruma's own table: Unicode's word characters and, of the other numbers, those of Latin-1 (² ³ ¹ ¼ ½ ¾).
constexpr std::string_view kWord = R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\x{B2}\x{B3}\x{B9}\x{BC}-\x{BE})";
constexpr std::string_view kHex = "0-9A-Fa-f";

class Translation {
 public:
  Translation(std::string_view pattern, const std::string& where) : pattern_(pattern), where_(where) {}

  std::string run() {
    while (at_ < pattern_.size()) step();
    return std::move(out_);
  }

 private:
  [[noreturn]] void unsupported(std::string_view what) const {
    throw Error("regular expression: " + std::string(what) + " is not supported (at byte " + std::to_string(at_) + ")",
                where_, "only what GPT-2, Llama and Mistral tokenizers use is understood");
  }
  char peek(size_t ahead) const { return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0'; }

  void copy(size_t bytes) {
    out_ += pattern_.substr(at_, bytes);
    at_ += bytes;
  }

  // Puts a set of characters: as it is inside [], in brackets of its own outside.
  void put_set(std::string_view set) {
    if (in_class_) {
      // In [a-\s] and [\s-a] the - would come to stand between two characters, as a range.
      if ((peek(2) == '-' && peek(3) != ']') || (out_.ends_with('-') && !out_.ends_with("[-") && !out_.ends_with("^-")))
        unsupported("- beside a set inside []");
      out_ += set;
    } else {
      ((out_ += '[') += set) += ']';
    }
    at_ += 2;
  }
  void put_complement(std::string_view set) {
    if (in_class_) unsupported("\\W or \\H inside []");
    ((out_ += "[^") += set) += ']';
    at_ += 2;
  }

  void step() {
    const char c = pattern_[at_];
    if (c == '\\') {
      escape();
    } else if (in_class_) {
      class_character(c);
    } else if (c == '[') {
      open_class();
    } else if (c == '(') {
      open_group();
    } else if (c == '{') {
      repeat();
    } else {
      copy(1);
    }
  }

  void open_class() {
    in_class_ = true;
    copy(peek(1) == '^' ? 2 : 1);
    if (peek(0) == ']') unsupported("] as the first character of []");
  }

  void class_character(char c) {
    if (c == '[') unsupported("[ inside []");
    if (c == '&' && peek(1) == '&') unsupported("&& inside []");
    if (c == ']') in_class_ = false;
    copy(1);
  }

  // Groups whose meaning is the same in both dialects: (…) (?:…) (?=…) (?!…) (?<=…) (?<!…) (?>…) (?i:…) (?i).
  void open_group() {
    if (peek(1) == '*') unsupported("(*");
    if (peek(1) != '?') return copy(1);
    const std::string_view rest = pattern_.substr(at_ + 2);
    for (const std::string_view kind : {":", "=", "!", "<=", "<!", ">", "i:", "i)", "-i:"})
      if (rest.starts_with(kind)) return copy(2 + kind.size());
    unsupported("the group (?" + std::string(rest.substr(0, 1)));
  }

  // {n} {n,} {n,m}. Ruby reads a + after it as a second repeat, PCRE2 as "possessive".
  void repeat() {
    const size_t close = pattern_.find('}', at_);
    const std::string_view inside = close == std::string_view::npos ? "" : pattern_.substr(at_ + 1, close - at_ - 1);
    const bool digits = std::all_of(inside.begin(), inside.end(), [](char c) { return c == ',' || isdigit(c); });
    if (inside.empty() || !digits || inside[0] == ',') unsupported("{ that is not {n}, {n,} or {n,m}");
    copy(inside.size() + 2);
    if (peek(0) == '+') unsupported("+ after {…}");
  }

  void escape() {
    switch (const char c = peek(1)) {
      case 's':
        return put_set(kSpaces);
      case 'S':
        return put_set(kNoSpaces);
      case 'w':
        return put_set(kWord);
      case 'W':
        return put_complement(kWord);
      case 'h':
        return put_set(kHex);
      case 'H':
        return put_complement(kHex);
      case 'v':
        return put_set("\\x0B");
      case 'u':
        return unicode_escape();
      case 'p':
      case 'P':
        return property();
      case 'r':
      case 'n':
      case 't':
      case 'f':
      case 'e':
      case 'a':
      case 'd':
      case 'D':
      case 'x':
        return copy(2);
      case 'A':
      case 'z':
      case 'Z':
        if (in_class_) unsupported("an anchor inside []");
        return copy(2);
      default:
        if (c == '\0' || isalnum(static_cast<unsigned char>(c))) unsupported(std::string("the escape \\") + c);
        return copy(2);
    }
  }

  void unicode_escape() {
    const std::string_view digits = pattern_.substr(at_ + 2, std::min<size_t>(4, pattern_.size() - at_ - 2));
    const bool hex = std::all_of(digits.begin(), digits.end(), [](unsigned char c) { return isxdigit(c); });
    if (digits.size() != 4 || !hex) unsupported("\\u without four hexadecimal digits");
    ((out_ += "\\x{") += digits) += '}';
    at_ += 6;
  }

  // \p{L}, \p{Lu}: general categories. \p{Han}: a script; PCRE2 would otherwise take script extensions.
  void property() {
    const size_t close = pattern_.find('}', at_);
    if (peek(2) != '{' || close == std::string_view::npos) unsupported("\\p without {…}");
    std::string_view name = pattern_.substr(at_ + 3, close - at_ - 3);
    std::string_view negation;
    if (name.starts_with('^')) {
      negation = "^";
      name.remove_prefix(1);
    }
    const bool letters = std::all_of(name.begin(), name.end(), [](unsigned char c) { return isalpha(c) || c == '_'; });
    if (name.empty() || !letters) unsupported("the property \\p{" + std::string(name) + "}");
    ((out_ += '\\') += peek(1)) += '{';
    ((out_ += negation) += name.size() > 2 ? "sc:" : "") += name;
    out_ += '}';
    at_ = close + 1;
  }

  std::string_view pattern_;
  const std::string& where_;
  std::string out_;
  size_t at_ = 0;
  bool in_class_ = false;
};

}  // namespace

std::string translate_regex(std::string_view pattern, const std::string& where) {
  return Translation(pattern, where).run();
}

}  // namespace qg
