#include "server/reply_json.h"

#include <fmt/format.h>

#include <utility>

#include "tokenizer/utf8.h"

namespace qg {
namespace {

// A token as text, with the space that it begins with; parts of characters show as U+FFFD.
std::string token_text(const Tokenizer& tokenizer, int32_t token) {
  return repaired_utf8(tokenizer.token_bytes(token));
}

// The bytes are the token's own: clients put a character together that came in several tokens.
Json chat_token(const Tokenizer& tokenizer, int32_t token, float logprob) {
  Json bytes = Json::array();
  for (const char c : tokenizer.token_bytes(token)) bytes.push_back(static_cast<unsigned char>(c));
  return Json{{"token", token_text(tokenizer, token)}, {"logprob", logprob}, {"bytes", std::move(bytes)}};
}

Json chat_logprobs(const Tokenizer& tokenizer, const std::vector<LogprobEntry>& entries) {
  Json content = Json::array();
  for (const LogprobEntry& entry : entries) {
    Json token = chat_token(tokenizer, entry.token, entry.logprobs ? entry.logprobs->chosen : 0);
    Json top = Json::array();
    if (entry.logprobs)
      for (const auto& [id, logprob] : entry.logprobs->top) top.push_back(chat_token(tokenizer, id, logprob));
    token["top_logprobs"] = std::move(top);
    content.push_back(std::move(token));
  }
  return Json{{"content", std::move(content)}, {"refusal", nullptr}};
}

Json completion_logprobs(const Tokenizer& tokenizer, const std::vector<LogprobEntry>& entries) {
  Json tokens = Json::array(), chosen = Json::array(), top = Json::array(), offsets = Json::array();
  for (const LogprobEntry& entry : entries) {
    const std::string text = token_text(tokenizer, entry.token);
    tokens.push_back(text);
    offsets.push_back(entry.text_offset);
    chosen.push_back(entry.logprobs ? Json(entry.logprobs->chosen) : Json());
    Json best;
    if (entry.logprobs) {
      best = Json::object();
      // Of tokens that show as the same text the likeliest stays.
      for (const auto& [id, logprob] : entry.logprobs->top) best.emplace(token_text(tokenizer, id), logprob);
      best.emplace(text, entry.logprobs->chosen);
    }
    top.push_back(std::move(best));
  }
  return Json{{"tokens", std::move(tokens)},
              {"token_logprobs", std::move(chosen)},
              {"top_logprobs", std::move(top)},
              {"text_offset", std::move(offsets)}};
}

Json head_json(const ReplyHead& head, bool chunk) {
  const char* const object = head.kind == ApiKind::completion ? "text_completion"
                             : chunk                          ? "chat.completion.chunk"
                                                              : "chat.completion";
  return Json{{"id", head.id}, {"object", object}, {"created", head.created_unix_s}, {"model", head.model}};
}

Json choice_json(ApiKind kind, ChoicePart part, bool chunk) {
  Json choice{{"index", part.index}};
  if (kind == ApiKind::completion) {
    choice["text"] = std::move(part.text);
  } else if (!chunk) {
    choice["message"] = {{"role", "assistant"}, {"content", std::move(part.text)}, {"refusal", nullptr}};
  } else {
    Json delta = Json::object();
    if (part.first) delta["role"] = "assistant";
    if (part.first || !part.text.empty()) delta["content"] = std::move(part.text);
    choice["delta"] = std::move(delta);
  }
  choice["logprobs"] = std::move(part.logprobs);
  choice["finish_reason"] = part.finish_reason.empty() ? Json() : Json(part.finish_reason);
  return choice;
}

}  // namespace

Json to_json(const Usage& usage) {
  return Json{{"prompt_tokens", usage.prompt_tokens},
              {"completion_tokens", usage.completion_tokens},
              {"total_tokens", usage.prompt_tokens + usage.completion_tokens}};
}

Json logprobs_json(ApiKind kind, const Tokenizer& tokenizer, const std::vector<LogprobEntry>& entries) {
  return kind == ApiKind::chat ? chat_logprobs(tokenizer, entries) : completion_logprobs(tokenizer, entries);
}

Json reply_json(const ReplyHead& head, std::vector<ChoicePart> choices, const Usage& usage) {
  Json reply = head_json(head, false);
  Json list = Json::array();
  for (ChoicePart& choice : choices) list.push_back(choice_json(head.kind, std::move(choice), false));
  reply["choices"] = std::move(list);
  reply["usage"] = to_json(usage);
  return reply;
}

Json chunk_json(const ReplyHead& head, ChoicePart part, const Json& usage) {
  Json chunk = head_json(head, true);
  chunk["choices"] = Json::array({choice_json(head.kind, std::move(part), true)});
  if (!usage.is_null()) chunk["usage"] = usage;
  return chunk;
}

Json usage_chunk_json(const ReplyHead& head, const Usage& usage) {
  Json chunk = head_json(head, true);
  chunk["choices"] = Json::array();
  chunk["usage"] = to_json(usage);
  return chunk;
}

std::string sse_event(std::string_view data) {
  return fmt::format("data: {}\n\n", data);
}

std::string http_chunk(std::string_view bytes) {
  return fmt::format("{:x}\r\n{}\r\n", bytes.size(), bytes);
}

}  // namespace qg
