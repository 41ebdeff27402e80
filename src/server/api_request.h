#pragma once
// The body of /v1/completions and /v1/chat/completions as a value. Pure functions of bytes: they know no model, so what
// depends on one (its name, its vocabulary, its length) is checked in prepare.h.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "runtime/executor.h"
#include "tokenizer/chat.h"

namespace qg {

enum class ApiKind { completion, chat };

using PromptInput = std::variant<std::string, std::vector<int32_t>>;  // text, or token ids

struct ApiRequest {
  ApiKind kind = ApiKind::completion;
  std::string model;                  // as the client calls it
  std::vector<PromptInput> prompts;   // completions: one or more
  std::vector<ChatMessage> messages;  // chat
  int64_t n = 1;                      // choices for each prompt
  std::optional<int64_t> max_tokens;
  SamplingParams sampling;
  std::optional<uint64_t> seed;
  std::vector<std::string> stop;
  std::vector<int32_t> stop_token_ids;
  bool include_stop = false;  // the stop string stays in the text
  bool ignore_eos = false;
  bool skip_special_tokens = true;
  bool echo = false;
  std::optional<int64_t> logprobs;  // how many likeliest tokens beside the chosen one; absent: no logprobs at all
  bool stream = false;
  bool include_usage = false;     // of a stream, in a last chunk
  bool continuous_usage = false;  // and in every other chunk
};

inline constexpr int64_t kMaxChoices = 128;  // of one request: prompts · n
inline constexpr int64_t kMaxStopStrings = 16;
inline constexpr int64_t kMaxStopBytes = 1024;  // of one stop string
inline constexpr int64_t kMaxLogprobs = 20;
inline constexpr float kMaxTemperature = 100;

// Throws ApiError (400) on anything that is not a sound request. max_choices: where fewer ever fit.
ApiRequest parse_completion_request(std::string_view body, int64_t max_choices = kMaxChoices);
ApiRequest parse_chat_request(std::string_view body, int64_t max_choices = kMaxChoices);

}  // namespace qg
