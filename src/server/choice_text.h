#pragma once
// The text of one choice as it grows out of tokens: decoded character by character, ended by stop strings, with the
// log-probabilities of its tokens at hand when they are wanted.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/engine.h"
#include "server/api_request.h"
#include "server/stop_strings.h"
#include "server/token_logprobs.h"
#include "tokenizer/tokenizer.h"

namespace qg {

struct LogprobEntry {
  int32_t token = -1;
  std::optional<TokenLogprobs> logprobs;  // empty for the first token of a prompt: nothing comes before it
  int64_t text_offset = 0;                // characters of the choice's text before it
};

class ChoiceText {
 public:
  ChoiceText(const Tokenizer& tokenizer, const ApiRequest& request);

  // The prompt as the beginning of the text (echo). rows: when logprobs are wanted, of each prompt token but the first.
  void echo(const std::string& text, const std::vector<int32_t>& tokens, std::vector<TokenLogprobs> rows);
  // What is generated goes on after these tokens (a completion; a chat's reply is a text of its own). Before push().
  void go_on_after(const std::vector<int32_t>& prompt) { decoder_.go_on_after(prompt); }
  // A generated token. is_stop: one that ended the reply by itself; it belongs to the usage and not to the text.
  void push(int32_t token, std::optional<TokenLogprobs> logprobs, bool is_stop);
  // The end. Stop strings found in what was held back until now still count.
  void finish(FinishReason reason);

  bool ended() const { return !finish_reason_.empty(); }
  std::string_view finish_reason() const { return finish_reason_; }  // "stop", "length"; empty: goes on
  int64_t completion_tokens() const { return completion_tokens_; }

  // What may be given out since the last call. Entries come no earlier than their text.
  std::string take_text();
  std::vector<LogprobEntry> take_logprobs();

 private:
  void append(const std::string& piece);
  void stop_found();

  Tokenizer tokenizer_;
  StreamDecoder decoder_;
  bool has_logprobs_;
  StopStrings stops_;
  std::string ready_;
  std::vector<LogprobEntry> entries_;  // not given out yet
  int64_t decoded_chars_ = 0;          // of the whole text, what is held back included
  int64_t ready_chars_ = 0;            // of the whole text, as far as it may be seen
  int64_t completion_tokens_ = 0;
  std::string finish_reason_;
};

}  // namespace qg
