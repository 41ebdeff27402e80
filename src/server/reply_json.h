#pragma once
// Replies of the API as JSON, and the framing of a stream of them (server-sent events in chunks of HTTP/1.1).
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/json.h"
#include "server/choice_text.h"

namespace qg {

struct ReplyHead {
  ApiKind kind = ApiKind::completion;
  std::string id;  // "cmpl-…", "chatcmpl-…"
  std::string model;
  int64_t created_unix_s = 0;
};

struct Usage {
  int64_t prompt_tokens = 0, completion_tokens = 0;
};

// What a choice, or a chunk of one, brings.
struct ChoicePart {
  int64_t index = 0;
  std::string text;
  std::string_view finish_reason;  // empty: goes on
  Json logprobs;                   // null when not wanted
  int64_t num_logprobs = 0;        // tokens in it
  bool first = false;              // of a chat stream: names the role
};

Json to_json(const Usage& usage);
Json logprobs_json(ApiKind kind, const Tokenizer& tokenizer, const std::vector<LogprobEntry>& entries);

// A whole reply: head, choices, usage.
Json reply_json(const ReplyHead& head, std::vector<ChoicePart> choices, const Usage& usage);
// A chunk of a stream. usage: null = the key is left out.
Json chunk_json(const ReplyHead& head, ChoicePart part, const Json& usage);
// The last chunk of a stream whose usage was asked for: no choices.
Json usage_chunk_json(const ReplyHead& head, const Usage& usage);

std::string sse_event(std::string_view data);    // "data: …\n\n"; data holds no line break
std::string http_chunk(std::string_view bytes);  // of chunked transfer encoding; empty ends the body
inline constexpr std::string_view kSseDone = "data: [DONE]\n\n";
inline constexpr std::string_view kSseKeepAlive = ": keep-alive\n\n";  // a comment, which clients skip

}  // namespace qg
