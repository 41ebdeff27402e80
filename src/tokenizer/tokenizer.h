#pragma once
// Text to token ids and back, as tokenizer.json (the Hugging Face `tokenizers` format) describes it: byte-level BPE
// (Llama 3, GPT-2, SmolLM2) and BPE with byte fallback (Mistral, Llama 2). Any part of the file that is not understood
// is an Error that names it, so that no text is ever tokenized almost right.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace qg {

using TokenId = int32_t;

// Immutable and safe to use from several threads; copies share one state.
class Tokenizer {
 public:
  // Reads tokenizer.json and, where they exist, tokenizer_config.json, special_tokens_map.json, generation_config.json
  // (end-of-text ids) and chat_template.jinja. Throws Error.
  static Tokenizer from_folder(const std::filesystem::path& dir);
  // The same from texts; tokenizer_config_json may be empty. `where` names the source in errors.
  static Tokenizer from_json(std::string_view tokenizer_json, std::string_view tokenizer_config_json,
                             const std::string& where);

  // add_special_tokens: what the file's post-processor adds around a text (a beginning-of-text token for Llama and
  // Mistral, nothing for SmolLM2). Special tokens written inside the text are always recognized. Bytes that are not
  // UTF-8 count as U+FFFD. "truncation" and "padding" in the file are ignored: lengths are the caller's business.
  std::vector<TokenId> encode(std::string_view text, bool add_special_tokens) const;

  // Ids without a token (a model's vocabulary is often padded) give no text.
  std::string decode(std::span<const TokenId> ids, bool skip_special_tokens = true) const;

  int64_t vocab_size() const;  // ids run below this, added tokens included
  std::optional<TokenId> bos() const;
  const std::vector<TokenId>& eos() const;  // the tokenizer's first, then those of generation_config.json
  std::optional<TokenId> pad() const;

  // What one token adds to the middle of a text; often a part of a character only. Special tokens as they are spelled.
  std::string token_bytes(TokenId id) const;

  std::optional<TokenId> token_to_id(std::string_view token) const;
  std::string id_to_token(TokenId id) const;  // as the vocabulary spells it; empty when the id has no token
  bool is_special(TokenId id) const;

  const std::string& hash() const;           // sha256 of tokenizer.json, for records
  const std::string& chat_template() const;  // the Jinja text, empty when there is none; chat.h reads it
  const std::string& where() const;          // the file, for errors

  struct State;

 private:
  friend class StreamDecoder;
  explicit Tokenizer(std::shared_ptr<const State> state) : state_(std::move(state)) {}
  std::shared_ptr<const State> state_;
};

// Decodes one id at a time. The pieces put together are exactly Tokenizer::decode of all ids; a piece never ends inside
// a character, so text is held back until its character is whole (or until finish()).
class StreamDecoder {
 public:
  explicit StreamDecoder(const Tokenizer& tokenizer, bool skip_special_tokens = true);
  ~StreamDecoder();
  StreamDecoder(StreamDecoder&&) noexcept;
  StreamDecoder& operator=(StreamDecoder&&) noexcept;

  // What is pushed goes on after these tokens, whose text is not given: a first word keeps the space before it, which
  // decoders of SentencePiece's kind leave out at the beginning of a text. Before the first push.
  void go_on_after(std::span<const TokenId> before);
  std::string push(TokenId id);
  std::string finish();  // what was still held back; the decoder then starts anew

 private:
  struct Chain;
  std::shared_ptr<const Tokenizer::State> state_;
  bool skip_special_tokens_;
  std::unique_ptr<Chain> chain_;
};

}  // namespace qg
