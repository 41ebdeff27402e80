#include "server/choice_text.h"

#include <algorithm>
#include <utility>

namespace qg {
namespace {

int64_t characters(std::string_view text) {
  return std::ranges::count_if(text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0) != 0x80; });
}

}  // namespace

ChoiceText::ChoiceText(const Tokenizer& tokenizer, const ApiRequest& request)
    : tokenizer_(tokenizer),
      decoder_(tokenizer, request.skip_special_tokens),
      has_logprobs_(request.logprobs),
      stops_(request.stop, request.include_stop) {}

// Stop strings are looked for in what is generated alone.
void ChoiceText::echo(const std::string& text, const std::vector<int32_t>& tokens, std::vector<TokenLogprobs> rows) {
  size_t at = 0;
  for (size_t i = 0; i < tokens.size() && has_logprobs_; ++i) {
    LogprobEntry& entry = entries_.emplace_back();
    entry.token = tokens[i];
    entry.text_offset = decoded_chars_;
    if (i > 0) entry.logprobs = std::move(rows.at(i - 1));  // row i - 1 is what the model expected after token i - 1
    std::string piece = decoder_.push(tokens[i]);
    // The text is the client's: a special token may be spelled out in it that the decoder leaves out.
    if (const std::string spelled = tokenizer_.token_bytes(tokens[i]);
        piece.empty() && tokenizer_.is_special(tokens[i]) && std::string_view(text).substr(at).starts_with(spelled))
      piece = spelled;
    at = std::min(at + piece.size(), text.size());
    decoded_chars_ += characters(piece);
  }
  decoder_.finish();
  ready_ += text;
  decoded_chars_ = ready_chars_ = characters(text);
}

void ChoiceText::push(int32_t token, std::optional<TokenLogprobs> logprobs, bool is_stop) {
  if (ended()) return;
  ++completion_tokens_;
  if (is_stop) return;
  if (logprobs) entries_.push_back({token, std::move(logprobs), decoded_chars_});
  append(decoder_.push(token));
}

void ChoiceText::append(const std::string& piece) {
  decoded_chars_ += characters(piece);
  const std::string safe = stops_.push(piece);
  ready_ += safe;
  ready_chars_ += characters(safe);
  if (stops_.found()) stop_found();
}

// Tokens behind the cut belong to the stop string, which nobody sees.
void ChoiceText::stop_found() {
  finish_reason_ = "stop";
  std::erase_if(entries_, [&](const LogprobEntry& entry) { return entry.text_offset >= ready_chars_; });
}

void ChoiceText::finish(FinishReason reason) {
  if (ended()) return;
  append(decoder_.finish());
  if (ended()) return;
  const std::string rest = stops_.finish();
  ready_ += rest;
  ready_chars_ += characters(rest);
  finish_reason_ = reason == FinishReason::stop ? "stop" : "length";
}

std::string ChoiceText::take_text() {
  return std::exchange(ready_, {});
}

std::vector<LogprobEntry> ChoiceText::take_logprobs() {
  // A token whose text is held back may yet turn out to be part of a stop string.
  const auto held = ended() ? entries_.end() : std::ranges::find_if(entries_, [&](const LogprobEntry& entry) {
    return entry.text_offset > ready_chars_ || (entry.text_offset == ready_chars_ && decoded_chars_ > ready_chars_);
  });
  std::vector<LogprobEntry> out(std::make_move_iterator(entries_.begin()), std::make_move_iterator(held));
  entries_.erase(entries_.begin(), held);
  return out;
}

}  // namespace qg
