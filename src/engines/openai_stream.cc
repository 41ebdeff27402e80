#include "engines/openai_stream.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/json.h"

namespace qg {
namespace {

constexpr int64_t kMostTokens = int64_t{1} << 30;
constexpr size_t kShownBytes = 300;

std::string one_line(std::string_view text) {
  std::string line(text.substr(0, kShownBytes));
  for (char& c : line)
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = ' ';
  line.erase(0, std::min(line.find_first_not_of(' '), line.size()));
  line.erase(line.find_last_not_of(' ') + 1);
  // A cut in the middle of a character, or bytes that are no text: records are UTF-8.
  const std::string text_only = SortedJson(line).dump(-1, ' ', false, nlohmann::detail::error_handler_t::replace);
  return SortedJson::parse(text_only).get<std::string>();
}

const SortedJson* find(const SortedJson& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto it = object.find(key);
  return it == object.end() || it->is_null() ? nullptr : &*it;
}

[[noreturn]] void strange(const char* what, std::string_view data) {
  throw Error(fmt::format("the stream holds {}: {}", what, one_line(data)));
}

std::optional<int64_t> count(const SortedJson& usage, const char* key, std::string_view data) {
  const SortedJson* value = find(usage, key);
  if (!value) return std::nullopt;
  if (!value->is_number_unsigned() || value->get<uint64_t>() > static_cast<uint64_t>(kMostTokens))
    strange("a count that is none", data);
  return value->get<int64_t>();
}

// The text that a choice brings; it may be empty.
bool has_text(const SortedJson& choice, std::string_view data) {
  if (!choice.is_object()) strange("a choice that is no object", data);
  const auto filled = [&](const SortedJson* text) {
    if (!text) return false;
    if (!text->is_string()) strange("a text that is none", data);
    return !text->get_ref<const std::string&>().empty();
  };
  if (filled(find(choice, "text"))) return true;
  const SortedJson* delta = find(choice, "delta");
  return delta && (filled(find(*delta, "content")) || filled(find(*delta, "reasoning_content")));
}

std::optional<std::string> message_in(const SortedJson& body) {
  const SortedJson* error = find(body, "error");
  if (error && error->is_string()) return error->get<std::string>();
  for (const SortedJson* object : {error, &body})
    if (object)
      if (const SortedJson* message = find(*object, "message"); message && message->is_string())
        return message->get<std::string>();
  if (const SortedJson* detail = find(body, "detail"))
    return detail->is_string() ? detail->get<std::string>() : detail->dump();
  return error ? std::optional(error->dump()) : std::nullopt;
}

}  // namespace

int64_t CompletionStream::take(std::string_view data) {
  if (done_) strange("more behind [DONE]", data);
  if (data == "[DONE]") {
    done_ = true;
    return 0;
  }
  const SortedJson event = SortedJson::parse(data, nullptr, false);
  if (event.is_discarded() || !event.is_object()) strange("what is no JSON object", data);
  const SortedJson* object = find(event, "object");
  if (find(event, "error") || (object && *object == "error"))
    throw Error("the server reports: " + one_line(message_in(event).value_or(std::string(data))));
  int64_t tokens = 0;
  const SortedJson* choices = find(event, "choices");
  if (choices) {
    if (!choices->is_array()) strange("choices that are no list", data);
    for (const SortedJson& choice : *choices) {
      if (has_text(choice, data)) tokens = 1;
      finished_ |= find(choice, "finish_reason") != nullptr;
    }
  }
  if (const SortedJson* usage = find(event, "usage")) {
    const auto prompt = count(*usage, "prompt_tokens", data), completion = count(*usage, "completion_tokens", data);
    if (prompt) prompt_tokens_ = prompt;
    if (completion) completion_tokens_ = completion;
    if (completion && choices && !choices->empty()) {
      running_count_ = true;
      if (*completion < counted_) strange("a count that runs backwards", data);
      tokens = *completion - counted_;
    }
  } else if (running_count_) {
    tokens = 0;  // what this piece brought is in the next count
  }
  counted_ += tokens;
  return tokens;
}

std::string error_message(std::string_view body) {
  const SortedJson json = SortedJson::parse(body, nullptr, false);
  if (!json.is_discarded())
    if (const auto message = message_in(json)) return one_line(*message);
  return body.empty() ? "an empty body" : one_line(body);
}

}  // namespace qg
