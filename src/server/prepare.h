#pragma once
// A parsed request made ready for the engine: names and lengths checked against the model, texts turned into tokens.
// Slow for long texts, so it runs beside the event loop; everything it reads is immutable.
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "server/api_error.h"
#include "server/api_request.h"
#include "tokenizer/tokenizer.h"

namespace qg {

// What requests are held against.
struct ServedModel {
  std::string name;  // as clients call it
  Tokenizer tokenizer;
  int64_t vocab = 0;              // of the model; may be more than the tokenizer's
  int64_t max_tokens = 0;         // longest prompt and reply together: by the model's positions and the KV pool
  int64_t max_prompt_tokens = 0;  // at most max_tokens
  int64_t created_unix_s = 0;
  int64_t max_choices = kMaxChoices;  // of one request: what the batch and the queue hold when nothing else is there
};

struct PreparedPrompt {
  std::string text;  // for echo
  std::vector<int32_t> tokens;
};

struct PreparedRequest {
  ApiRequest api;
  std::vector<PreparedPrompt> prompts;
  int64_t max_tokens = 0;  // of each reply; the same for all prompts
};

// Throws ApiError: 400 on a bad request, 404 on an unknown model.
PreparedRequest prepare(ApiKind kind, std::string_view body, const ServedModel& model);

}  // namespace qg
