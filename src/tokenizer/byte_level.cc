#include "tokenizer/byte_level.h"

#include "tokenizer/utf8.h"

namespace qg {
namespace {

constexpr char32_t kMaxCharacter = 0x144;  // 256 + the 68 bytes that are not printable

struct Alphabet {
  std::array<std::string, 256> characters;
  std::array<int, kMaxCharacter> bytes;

  // Printable bytes of Latin-1 stand for themselves; the others get the characters from U+0100 on, in order.
  Alphabet() {
    bytes.fill(-1);
    char32_t next = 0x100;
    for (int byte = 0; byte < 256; ++byte) {
      const bool printable = (byte > 0x20 && byte < 0x7F) || (byte > 0xA0 && byte != 0xAD);
      const char32_t character = printable ? static_cast<char32_t>(byte) : next++;
      append_utf8(characters[byte], character);
      bytes[character] = byte;
    }
  }
};

const Alphabet& alphabet() {
  static const Alphabet instance;
  return instance;
}

}  // namespace

const std::array<std::string, 256>& byte_characters() {
  return alphabet().characters;
}

std::optional<std::string> bytes_of_characters(std::string_view token) {
  std::string out;
  for (size_t at = 0; at < token.size();) {
    const CodePoint c = code_point_at(token, at);
    at += c.bytes;
    if (c.value >= kMaxCharacter || alphabet().bytes[c.value] < 0) return {};
    out.push_back(static_cast<char>(alphabet().bytes[c.value]));
  }
  return out;
}

}  // namespace qg
