#include "tokenizer/decoder.h"

#include <algorithm>
#include <optional>

#include "core/error.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/pattern.h"
#include "tokenizer/utf8.h"

namespace qg {
namespace {

// Without a decoder, tokens are put side by side with spaces.
class JoinStage : public DecoderStage {
 public:
  void push(std::string_view text, bool ends_token, const DecoderSink& out) override {
    if (!first_) out(" ", false);
    first_ = false;
    out(text, ends_token);
  }

 private:
  bool first_ = true;
};

// All tokens become one.
class FuseStage : public DecoderStage {
 public:
  void push(std::string_view text, bool, const DecoderSink& out) override { out(text, false); }
  void finish(const DecoderSink& out) override { out("", true); }
};

// For stages that must see a whole token.
class WholeTokenStage : public DecoderStage {
 public:
  void push(std::string_view text, bool ends_token, const DecoderSink& out) final {
    token_ += text;
    if (!ends_token) return;
    take(token_, out);
    token_.clear();
  }

 protected:
  virtual void take(const std::string& token, const DecoderSink& out) = 0;

 private:
  std::string token_;
};

// Characters of GPT-2's alphabet to bytes, bytes to text. A token with any other character (an added token) is text.
class ByteLevelStage : public WholeTokenStage {
 public:
  void finish(const DecoderSink& out) override {
    std::string text;
    repair_.finish(text);
    out(text, true);
  }
  std::string token_bytes(const std::string& token) const override {
    return bytes_of_characters(token).value_or(token);
  }

 private:
  void take(const std::string& token, const DecoderSink& out) override {
    std::string text;
    repair_.push(token_bytes(token), text);
    out(text, false);
  }
  Utf8Repair repair_;
};

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

// The byte that a token like "<0x41>" stands for.
std::optional<char> byte_of_token(std::string_view token) {
  if (token.size() != 6 || !token.starts_with("<0x") || token[5] != '>') return {};
  const int high = hex_digit(token[3]), low = hex_digit(token[4]);
  if (high < 0 || low < 0) return {};
  return static_cast<char>(high << 4 | low);
}

// Runs of "<0x41>" tokens to the text that their bytes spell; if they spell none, each byte becomes U+FFFD. Whether a
// run is text is known only at its end, so that a run is held back.
class ByteFallbackStage : public WholeTokenStage {
 public:
  void finish(const DecoderSink& out) override { flush(out); }
  std::string token_bytes(const std::string& token) const override {
    const auto byte = byte_of_token(token);
    return byte ? std::string(1, *byte) : token;
  }

 private:
  void take(const std::string& token, const DecoderSink& out) override {
    if (const auto byte = byte_of_token(token)) {
      run_.push_back(*byte);
      return;
    }
    flush(out);
    out(token, true);
  }

  void flush(const DecoderSink& out) {
    if (run_.empty()) return;
    if (is_utf8(run_))
      out(run_, true);
    else
      for (size_t i = 0; i < run_.size(); ++i) out(kReplacementCharacter, true);
    run_.clear();
  }
  std::string run_;
};

class ReplaceStage : public DecoderStage {
 public:
  ReplaceStage(const Pattern& pattern, const std::string& content) : pattern_(pattern), content_(content) {}

  void push(std::string_view text, bool ends_token, const DecoderSink& out) override {
    held_ += text;
    if (ends_token) {
      out(pattern_.replaced(held_, content_), true);
      held_.clear();
    } else if (pattern_.is_literal()) {
      give_what_is_sure(out);
    }  // a regular expression may reach back to the token's beginning: wait for its end
  }
  std::string token_bytes(const std::string& token) const override { return pattern_.replaced(token, content_); }

 private:
  // All but an end that may be the beginning of a match.
  void give_what_is_sure(const DecoderSink& out) {
    const std::string& literal = pattern_.literal();
    size_t done = 0;
    std::string sure;
    pattern_.each_match(held_, [&](size_t begin, size_t end) {
      sure.append(held_, done, begin - done) += content_;
      done = end;
    });
    size_t open = std::min(literal.size() - 1, held_.size() - done);
    while (open > 0 && !std::string_view(held_).ends_with(std::string_view(literal).substr(0, open))) --open;
    sure.append(held_, done, held_.size() - done - open);
    held_.erase(0, held_.size() - open);
    if (!sure.empty()) out(sure, false);
  }

  const Pattern pattern_;
  const std::string content_;
  std::string held_;
};

// Takes up to `start` of a character off the beginning of each token, and up to `stop` off its end.
class StripStage : public DecoderStage {
 public:
  StripStage(const std::string& content, int64_t start, int64_t stop) : content_(content), start_(start), stop_(stop) {}

  void push(std::string_view text, bool ends_token, const DecoderSink& out) override {
    std::string given;
    for (size_t at = 0; at < text.size();) {
      const std::string_view character = text.substr(at, code_point_at(text, at).bytes);
      at += character.size();
      take(character, given);
    }
    out(given, ends_token);
    if (!ends_token) return;
    taken_ = held_ = 0;
    leading_ = true;
  }

 private:
  void take(std::string_view character, std::string& given) {
    if (character != content_) {
      leading_ = false;
      for (; held_ > 0; --held_) given += content_;
      given += character;
    } else if (leading_ && taken_ < start_) {
      ++taken_;
    } else if (held_ < stop_) {
      ++held_;  // may turn out to be the token's end
    } else {
      given += content_;  // the first of those held back is surely not among the last
    }
  }

  const std::string content_;
  const int64_t start_, stop_;
  int64_t taken_ = 0, held_ = 0;
  bool leading_ = true;
};

// The mark of a space back to a space; in the first token it goes away if encoding put it there.
class MetaspaceStage : public DecoderStage {
 public:
  MetaspaceStage(const std::string& mark, bool prepended) : mark_(mark), prepended_(prepended) {}

  void push(std::string_view text, bool ends_token, const DecoderSink& out) override {
    out(mark_.replaced(text, first_ && prepended_ ? "" : " "), ends_token);
    if (ends_token) first_ = false;
  }
  std::string token_bytes(const std::string& token) const override { return mark_.replaced(token, " "); }

 private:
  const Pattern mark_;
  const bool prepended_;
  bool first_ = true;
};

// The one character of a setting. Throws Error.
std::string read_character(const JsonReader& json, std::string_view key) {
  std::string text = json.get_string(key);
  if (text.empty() || code_point_at(text, 0).bytes != text.size())
    throw Error("\"" + std::string(key) + "\" should be one character, is \"" + text + "\"", json.where());
  return text;
}

}  // namespace

void DecoderChain::pass(size_t stage, std::string_view text, bool ends_token, std::string& out) {
  if (stage == stages_.size()) {
    out += text;
    return;
  }
  stages_[stage]->push(text, ends_token, [&, stage](std::string_view t, bool ends) { pass(stage + 1, t, ends, out); });
}

void DecoderChain::finish(std::string& out) {
  for (size_t stage = 0; stage < stages_.size(); ++stage)
    stages_[stage]->finish([&, stage](std::string_view text, bool ends) { pass(stage + 1, text, ends, out); });
}

Decoder::Decoder() {
  stages_.push_back([] { return std::make_unique<JoinStage>(); });
}

Decoder::Decoder(const JsonReader& json) {
  read(json);
}

void Decoder::read(const JsonReader& json) {
  const std::string type = json.get_string("type");
  if (type == "Sequence") {
    for (const JsonReader& stage : read_components(json, "decoders")) read(stage);
  } else if (type == "ByteLevel") {
    stages_.push_back([] { return std::make_unique<ByteLevelStage>(); });
  } else if (type == "ByteFallback") {
    stages_.push_back([] { return std::make_unique<ByteFallbackStage>(); });
  } else if (type == "Fuse") {
    stages_.push_back([] { return std::make_unique<FuseStage>(); });
  } else if (type == "Strip") {
    stages_.push_back(
        [content = read_character(json, "content"), start = json.get_int("start", {}, 0),
         stop = json.get_int("stop", {}, 0)] { return std::make_unique<StripStage>(content, start, stop); });
  } else if (type == "Replace") {
    stages_.push_back([pattern = Pattern::from_json(json, "pattern"), content = json.get_string("content")] {
      return std::make_unique<ReplaceStage>(pattern, content);
    });
  } else if (type == "Metaspace") {
    const bool prepended =
        json.get_string("prepend_scheme", json.get_bool("add_prefix_space", true) ? "always" : "never") != "never";
    stages_.push_back([mark = read_character(json, "replacement"), prepended] {
      return std::make_unique<MetaspaceStage>(mark, prepended);
    });
  } else {
    throw Error("decoder \"" + type + "\" is not supported", json.where(),
                "Sequence, ByteLevel, ByteFallback, Fuse, Strip, Replace and Metaspace are");
  }
}

DecoderChain Decoder::start() const {
  std::vector<std::unique_ptr<DecoderStage>> stages;
  for (const auto& make : stages_) stages.push_back(make());
  return DecoderChain(std::move(stages));
}

std::string Decoder::token_bytes(std::string token) const {
  for (const auto& make : stages_) token = make()->token_bytes(token);
  return token;
}

}  // namespace qg
