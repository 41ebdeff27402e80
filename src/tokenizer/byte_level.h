#pragma once
// GPT-2's alphabet: each byte is written as one printable character, so that a vocabulary of bytes is readable text.
#include <array>
#include <optional>
#include <string>
#include <string_view>

namespace qg {

// The character of each byte, in UTF-8 (one or two bytes).
const std::array<std::string, 256>& byte_characters();
// The bytes that such characters stand for; nothing when one of the characters is none of them.
std::optional<std::string> bytes_of_characters(std::string_view token);

}  // namespace qg
