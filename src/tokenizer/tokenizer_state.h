#pragma once
// What a Tokenizer holds.
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/decoder.h"
#include "tokenizer/normalizer.h"
#include "tokenizer/post_processor.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"

namespace qg {

struct Tokenizer::State {
  State(const SortedJson& json, const std::string& source);  // throws Error

  // What the files beside tokenizer.json say; ids are checked against the vocabulary. Throws Error.
  void read_config(const Json& config, const std::string& source);
  void read_generation_config(const Json& config, const std::string& source);

  std::optional<TokenId> find(std::string_view token) const;
  bool has_token(TokenId id) const;

  std::string where, hash, chat_template;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  Bpe bpe;
  AddedTokens added;
  Decoder decoder;
  TextFrame frame;
  std::vector<std::string_view> tokens;  // by id; views into bpe and added; data() is null where an id has no token
  std::unordered_map<std::string_view, TokenId> added_ids;
  std::optional<TokenId> bos, pad;
  std::vector<TokenId> eos;

 private:
  void index_tokens();
  void put_token(TokenId id, std::string_view token);
  TokenId checked_id(const Json& value, const std::string& key, const std::string& source) const;
  void add_eos(TokenId id);
};

}  // namespace qg
