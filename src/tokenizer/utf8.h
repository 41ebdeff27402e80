#pragma once
// UTF-8: reading and writing code points, and repair of bytes that are not UTF-8.
#include <cstddef>
#include <string>
#include <string_view>

namespace qg {

inline constexpr std::string_view kReplacementCharacter = "\xEF\xBF\xBD";  // U+FFFD

struct CodePoint {
  char32_t value;
  size_t bytes;
};

// The character that begins at text[at]; text must be valid UTF-8.
CodePoint code_point_at(std::string_view text, size_t at);
// Where the last character of text[0, end) begins; end > 0, text must be valid UTF-8.
size_t previous_character(std::string_view text, size_t end);
void append_utf8(std::string& text, char32_t value);

bool is_utf8(std::string_view bytes);
bool is_white_space(char32_t value);  // Unicode's White_Space property

// Makes valid UTF-8 of any bytes, which may come in pieces: each longest broken beginning of a character becomes one
// U+FFFD (Unicode 15, section 3.9, "substitution of maximal subparts"). Output never ends inside a character.
class Utf8Repair {
 public:
  void push(std::string_view bytes, std::string& out);
  void finish(std::string& out);  // a character that was left unfinished becomes U+FFFD

 private:
  void begin(unsigned char byte, std::string& out);
  std::string pending_;                     // the beginning of a character
  int missing_ = 0;                         // bytes that the pending character still lacks
  unsigned char low_ = 0x80, high_ = 0xBF;  // what the next byte may be
};

std::string repaired_utf8(std::string_view bytes);

}  // namespace qg
