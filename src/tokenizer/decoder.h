#pragma once
// The "decoder" part of tokenizer.json: tokens back to text. Decoding is a chain of stages that each hold back only
// what they must, so that a whole text and a stream of tokens go through the same code and give the same text.
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"

namespace qg {

// Takes text and whether a token ends with it, always whole characters.
using DecoderSink = std::function<void(std::string_view text, bool ends_token)>;

class DecoderStage {
 public:
  virtual ~DecoderStage() = default;
  virtual void push(std::string_view text, bool ends_token, const DecoderSink& out) = 0;
  virtual void finish(const DecoderSink&) {}  // no more tokens: gives what was held back
  // What becomes of one token in the middle of a text, in bytes: they may be a part of a character.
  virtual std::string token_bytes(const std::string& token) const { return token; }
};

// Stages with their state: one per text that is being decoded.
class DecoderChain {
 public:
  explicit DecoderChain(std::vector<std::unique_ptr<DecoderStage>> stages) : stages_(std::move(stages)) {}
  void push(std::string_view token, std::string& out) { pass(0, token, true, out); }
  void finish(std::string& out);

 private:
  void pass(size_t stage, std::string_view text, bool ends_token, std::string& out);
  std::vector<std::unique_ptr<DecoderStage>> stages_;
};

class Decoder {
 public:
  Decoder();  // tokens with spaces between
  // Sequence, ByteLevel, ByteFallback, Fuse, Strip, Replace, Metaspace; throws Error on any other.
  Decoder(const JsonReader& json);

  DecoderChain start() const;
  std::string token_bytes(std::string token) const;

 private:
  void read(const JsonReader& json);
  std::vector<std::function<std::unique_ptr<DecoderStage>()>> stages_;
};

}  // namespace qg
