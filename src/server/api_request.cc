#include "server/api_request.h"

#include <fmt/format.h>

#include <algorithm>
#include <cfloat>

#include "core/error.h"
#include "server/request_fields.h"

namespace qg {
namespace {

constexpr int64_t kMaxTokens = int64_t{1} << 30;
constexpr size_t kMaxMessages = 10000;
constexpr size_t kMaxStopTokens = 256;

SortedJson parse_body(std::string_view body) {
  try {
    return parse_sorted_json(body, "the request");
  } catch (const Error& e) {
    throw ApiError(400, e.problem(), "", "invalid_json");
  }
}

std::vector<int32_t> token_ids(const SortedJson& list, const std::string& where) {
  std::vector<int32_t> ids;
  ids.reserve(list.size());
  for (const SortedJson& item : list) {
    const bool fits = item.is_number_unsigned() && item.get<uint64_t>() <= INT32_MAX;
    if (!fits) throw ApiError(400, fmt::format("{} should hold token ids, holds {}", where, shown(item)), where);
    ids.push_back(item.get<int32_t>());
  }
  return ids;
}

// A text, a list of texts, a list of token ids, or a list of such lists.
std::vector<PromptInput> prompts_of(RequestFields& fields, int64_t max_choices) {
  const char* const kWanted = "a text, a list of texts, a list of token ids or a list of such lists";
  const SortedJson* prompt = fields.find("prompt");
  if (!prompt) fields.wrong("prompt", kWanted);
  if (prompt->is_string()) return {prompt->get<std::string>()};
  if (!prompt->is_array() || prompt->empty()) fields.wrong("prompt", kWanted);
  if (prompt->front().is_number()) return {token_ids(*prompt, "prompt")};
  if (static_cast<int64_t>(prompt->size()) > max_choices)
    fields.wrong("prompt", fmt::format("a list of at most {} prompts", max_choices));
  std::vector<PromptInput> prompts;
  for (const SortedJson& item : *prompt) {
    if (item.is_string())
      prompts.emplace_back(item.get<std::string>());
    else if (item.is_array())
      prompts.emplace_back(token_ids(item, "prompt"));
    else
      fields.wrong("prompt", kWanted);
  }
  return prompts;
}

std::string content_of(const SortedJson* content, const std::string& where) {
  const auto wrong = [&]() -> ApiError {
    return {400, where + " should be a text or a list of parts of type text", where};
  };
  if (content == nullptr) throw wrong();
  if (content->is_string()) return content->get<std::string>();
  if (!content->is_array()) throw wrong();
  std::string text;
  for (size_t i = 0; i < content->size(); ++i) {
    RequestFields part((*content)[i], fmt::format("{}[{}].", where, i));
    if (part.string("type") != "text") throw wrong();
    const auto words = part.string("text");
    if (!words) throw wrong();
    text += *words;
    part.refuse_unknown();
  }
  return text;
}

std::vector<ChatMessage> messages_of(RequestFields& fields) {
  const SortedJson* list = fields.find("messages");
  if (!list || !list->is_array() || list->empty() || list->size() > kMaxMessages)
    fields.wrong("messages", fmt::format("a list of 1 to {} messages", kMaxMessages));
  std::vector<ChatMessage> messages;
  for (size_t i = 0; i < list->size(); ++i) {
    const std::string where = fmt::format("messages[{}]", i);
    RequestFields message((*list)[i], where + ".");
    std::string role = message.string("role").value_or("");
    if (role == "developer") role = "system";  // OpenAI's newer word for it
    if (role != "system" && role != "user" && role != "assistant")
      message.wrong("role", "system, developer, user or assistant");
    std::string content = content_of(message.find("content"), where + ".content");
    message.ignore("name");
    message.refuse("tool_calls", SortedJson::array(), "this server calls no tools");
    message.refuse("function_call", nullptr, "this server calls no tools");
    message.refuse("refusal", nullptr, "conversations hold texts only");
    message.refuse("audio", nullptr, "conversations hold texts only");
    message.refuse_unknown();
    messages.push_back({std::move(role), std::move(content)});
  }
  return messages;
}

void read_stop(RequestFields& fields, ApiRequest& request) {
  const std::string wanted =
      fmt::format("a text or a list of at most {} texts of 1 to {} bytes", kMaxStopStrings, kMaxStopBytes);
  if (const SortedJson* stop = fields.find("stop")) {
    const SortedJson list = stop->is_array() ? *stop : SortedJson::array({*stop});
    if (static_cast<int64_t>(list.size()) > kMaxStopStrings) fields.wrong("stop", wanted);
    for (const SortedJson& item : list) {
      if (!item.is_string()) fields.wrong("stop", wanted);
      request.stop.push_back(item.get<std::string>());
      if (request.stop.back().empty() || static_cast<int64_t>(request.stop.back().size()) > kMaxStopBytes)
        fields.wrong("stop", wanted);
    }
  }
  if (const SortedJson* ids = fields.find("stop_token_ids")) {
    if (!ids->is_array() || ids->size() > kMaxStopTokens)
      fields.wrong("stop_token_ids", fmt::format("a list of at most {} token ids", kMaxStopTokens));
    request.stop_token_ids = token_ids(*ids, "stop_token_ids");
  }
  request.include_stop = fields.boolean("include_stop_str_in_output").value_or(false);
  request.ignore_eos = fields.boolean("ignore_eos").value_or(false);
  request.skip_special_tokens = fields.boolean("skip_special_tokens").value_or(true);
}

void read_sampling(RequestFields& fields, ApiRequest& request) {
  // OpenAI's defaults. A top_p of 0 is allowed there and means the likeliest token, which any smallest share gives.
  SamplingParams& sampling = request.sampling;
  sampling.temperature = static_cast<float>(fields.number("temperature", 0, kMaxTemperature).value_or(1));
  sampling.top_p = std::max(FLT_MIN, static_cast<float>(fields.number("top_p", 0, 1).value_or(1)));
  sampling.top_k = static_cast<int32_t>(std::max<int64_t>(0, fields.integer("top_k", -1, INT32_MAX).value_or(0)));
  if (const auto seed = fields.integer("seed", INT64_MIN, INT64_MAX)) request.seed = static_cast<uint64_t>(*seed);
}

void read_stream(RequestFields& fields, ApiRequest& request) {
  request.stream = fields.boolean("stream").value_or(false);
  const SortedJson* options = fields.find("stream_options");
  if (!options) return;
  if (!request.stream) throw ApiError(400, "stream_options is for streams: set stream to true", "stream_options");
  RequestFields stream(*options, "stream_options.");
  request.include_usage = stream.boolean("include_usage").value_or(false);
  request.continuous_usage = stream.boolean("continuous_usage_stats").value_or(false);
  stream.ignore("include_obfuscation");
  stream.refuse_unknown();
}

// What other servers have and this one does not: only values that change nothing pass.
void refuse_what_is_missing(RequestFields& fields) {
  const char* const kNotSampled = "tokens are drawn by temperature, top_p, top_k and seed alone";
  fields.refuse("frequency_penalty", 0, kNotSampled);
  fields.refuse("presence_penalty", 0, kNotSampled);
  fields.refuse("repetition_penalty", 1, kNotSampled);
  fields.refuse("min_p", 0, kNotSampled);
  fields.refuse("logit_bias", SortedJson::object(), kNotSampled);
  fields.refuse("min_tokens", 0, "an end-of-text token always ends the text; ignore_eos lets it go on to max_tokens");
  fields.refuse("use_beam_search", false, "tokens are drawn one after the other");
  for (const char* name : {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key"})
    fields.ignore(name);
}

void read_common(RequestFields& fields, ApiRequest& request, int64_t max_choices) {
  const auto model = fields.string("model");
  if (!model) fields.wrong("model", "a model's name (GET /v1/models tells it)");
  request.model = *model;
  request.n = fields.integer("n", 1, max_choices).value_or(1);
  read_sampling(fields, request);
  read_stop(fields, request);
  read_stream(fields, request);
  refuse_what_is_missing(fields);
}

}  // namespace

ApiRequest parse_completion_request(std::string_view body, int64_t max_choices) {
  const SortedJson json = parse_body(body);
  RequestFields fields(json);
  ApiRequest request;
  request.kind = ApiKind::completion;
  read_common(fields, request, max_choices);
  request.prompts = prompts_of(fields, max_choices);
  const int64_t prompts = static_cast<int64_t>(request.prompts.size());
  if (prompts * request.n > max_choices)
    throw ApiError(400,
                   fmt::format("{} prompts with n = {} are more than {} choices; n may be at most {} here", prompts,
                               request.n, max_choices, max_choices / prompts),
                   "n");
  request.max_tokens = fields.integer("max_tokens", 0, kMaxTokens);
  request.logprobs = fields.integer("logprobs", 0, kMaxLogprobs);
  request.echo = fields.boolean("echo").value_or(false);
  fields.refuse("best_of", request.n, "every choice that is made is given out");
  fields.refuse("suffix", "", "text is made at the end only");
  fields.refuse_unknown();
  return request;
}

ApiRequest parse_chat_request(std::string_view body, int64_t max_choices) {
  const SortedJson json = parse_body(body);
  RequestFields fields(json);
  ApiRequest request;
  request.kind = ApiKind::chat;
  read_common(fields, request, max_choices);
  request.messages = messages_of(fields);
  request.max_tokens = fields.integer("max_completion_tokens", 1, kMaxTokens);
  if (const auto older = fields.integer("max_tokens", 1, kMaxTokens)) {
    if (request.max_tokens && request.max_tokens != older)
      throw ApiError(400, "max_tokens and max_completion_tokens differ; give one of them", "max_tokens");
    request.max_tokens = older;
  }
  const bool logprobs = fields.boolean("logprobs").value_or(false);
  const auto top = fields.integer("top_logprobs", 0, kMaxLogprobs);
  if (top.value_or(0) > 0 && !logprobs)
    throw ApiError(400, "top_logprobs needs logprobs: set it to true", "top_logprobs");
  if (logprobs) request.logprobs = top.value_or(0);
  fields.refuse("tools", SortedJson::array(), "this server calls no tools");
  fields.refuse("tool_choice", "none", "this server calls no tools");
  fields.refuse("functions", SortedJson::array(), "this server calls no tools");
  fields.refuse("function_call", "none", "this server calls no tools");
  fields.ignore("parallel_tool_calls");
  fields.refuse("response_format", {{"type", "text"}}, "text is not made to fit a grammar");
  fields.refuse("modalities", SortedJson::array({"text"}), "answers are texts");
  fields.refuse_unknown();
  return request;
}

}  // namespace qg
