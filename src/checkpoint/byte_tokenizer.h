#pragma once
// The least tokenizer that a random-weight model needs for text to work: token i is byte i, and behind the bytes come
// <|bos|>, <|eos|> and <|pad|>.
#include <cstdint>
#include <map>
#include <string>

namespace qg {

// tokenizer.json, tokenizer_config.json and generation_config.json, by name; none when `vocab` has no room for the 259
// tokens.
std::map<std::string, std::string> byte_tokenizer_files(int64_t vocab);

}  // namespace qg
