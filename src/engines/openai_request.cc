#include "engines/openai_request.h"

#include <fmt/format.h>

#include <algorithm>

#include "core/error.h"
#include "core/json.h"

namespace qg {
namespace {

[[noreturn]] void wrong_url(std::string_view text, const char* why) {
  throw Error(fmt::format("\"{}\" is no base URL: {}", text, why), "--base-url", "write http://HOST:PORT");
}

bool printable(std::string_view text) {
  return std::all_of(text.begin(), text.end(), [](char c) { return c > 0x20 && c < 0x7f; });
}

}  // namespace

std::string BaseUrl::authority() const {
  return host.find(':') == std::string::npos ? fmt::format("{}:{}", host, port) : fmt::format("[{}]:{}", host, port);
}

BaseUrl parse_base_url(std::string_view text) {
  constexpr std::string_view kScheme = "http://";
  if (text.starts_with("https://"))
    throw Error("the load client has no TLS", "--base-url",
                "measure on the server's own machine, or through a proxy that takes plain HTTP");
  if (!text.starts_with(kScheme)) wrong_url(text, "it does not begin with http://");
  if (!printable(text)) wrong_url(text, "it holds blanks or other signs that no address has");
  std::string_view rest = text.substr(kScheme.size());
  const size_t slash = std::min(rest.find('/'), rest.size());
  std::string_view authority = rest.substr(0, slash), path = rest.substr(slash);
  if (path.find_first_of("?#") != std::string_view::npos) wrong_url(text, "it holds a query");
  if (authority.find('@') != std::string_view::npos) wrong_url(text, "a key is given with --api-key");
  BaseUrl url;
  if (authority.starts_with('[')) {  // an IPv6 address
    const size_t end = authority.find(']');
    if (end == std::string_view::npos) wrong_url(text, "the address has no ]");
    url.host = authority.substr(1, end - 1);
    authority.remove_prefix(end + 1);
  } else {
    const size_t colon = std::min(authority.find(':'), authority.size());
    url.host = authority.substr(0, colon);
    authority.remove_prefix(colon);
  }
  url.port = authority.starts_with(':') ? authority.substr(1) : authority;
  if (authority.empty()) url.port = "80";
  const bool digits =
      !url.port.empty() && url.port.size() <= 5 && url.port.find_first_not_of("0123456789") == std::string::npos;
  if (url.host.empty()) wrong_url(text, "it names no host");
  if (!digits || std::stoi(url.port) < 1 || std::stoi(url.port) > 65535) wrong_url(text, "the port is none");
  while (path.ends_with('/')) path.remove_suffix(1);
  if (path == "/v1" || path.ends_with("/v1")) path.remove_suffix(3);
  url.prefix = path;
  return url;
}

std::string RequestDialect::path() const {
  return chat ? "/v1/chat/completions" : "/v1/completions";
}

std::string RequestDialect::describe() const {
  std::string text = chat ? "chat" : token_prompts ? "token prompts" : "text prompts";
  if (ignore_eos) text += ", ignore_eos";
  if (min_tokens) text += ", min_tokens";
  text += running_usage ? ", usage in each event" : include_usage ? ", usage at the end" : ", usage not asked for";
  return text;
}

std::string request_body(const RequestDialect& dialect, std::span<const int32_t> tokens, std::string_view text,
                         int64_t output_tokens) {
  // Written by hand where it is long: a thousand requests of a thousand tokens are offered at once.
  std::string body = "{\"model\":" + Json(dialect.model).dump();
  if (dialect.chat) {
    body += ",\"messages\":[{\"role\":\"user\",\"content\":" + Json(std::string(text)).dump() + "}]";
  } else if (dialect.token_prompts) {
    body += ",\"prompt\":[";
    fmt::format_to(std::back_inserter(body), "{}]", fmt::join(tokens, ","));
  } else {
    body += ",\"prompt\":" + Json(std::string(text)).dump();
  }
  fmt::format_to(std::back_inserter(body), ",\"max_tokens\":{},\"temperature\":0,\"stream\":true", output_tokens);
  if (dialect.ignore_eos) body += ",\"ignore_eos\":true";
  if (dialect.min_tokens) fmt::format_to(std::back_inserter(body), ",\"min_tokens\":{}", output_tokens);
  if (dialect.running_usage)
    body += ",\"stream_options\":{\"include_usage\":true,\"continuous_usage_stats\":true}";
  else if (dialect.include_usage)
    body += ",\"stream_options\":{\"include_usage\":true}";
  return body + "}";
}

std::string leave_out_refused(RequestDialect& dialect, std::string_view refusal) {
  struct Extra {
    const char* name;
    bool RequestDialect::*field;
  };
  // In the order in which they are missed least.
  constexpr Extra kExtras[] = {{"continuous_usage_stats", &RequestDialect::running_usage},
                               {"min_tokens", &RequestDialect::min_tokens},
                               {"ignore_eos", &RequestDialect::ignore_eos},
                               {"stream_options", &RequestDialect::include_usage}};
  const auto leave_out = [&](const Extra& extra) {
    dialect.*extra.field = false;
    if (!dialect.include_usage) dialect.running_usage = false;
    return std::string(extra.name);
  };
  for (const Extra& extra : kExtras)
    if (dialect.*extra.field && refusal.find(extra.name) != std::string_view::npos) return leave_out(extra);
  if (refusal.find("prompt") != std::string_view::npos) return "";  // the prompt is what it does not take
  for (const Extra& extra : kExtras)
    if (dialect.*extra.field) return leave_out(extra);
  return "";
}

std::string http_request(const BaseUrl& base, std::string_view method, std::string_view path, std::string_view api_key,
                         std::string_view body) {
  std::string text = fmt::format("{} {}{} HTTP/1.1\r\nHost: {}\r\nUser-Agent: quantgrid\r\n", method, base.prefix, path,
                                 base.authority());
  if (!api_key.empty()) text += fmt::format("Authorization: Bearer {}\r\n", api_key);
  if (method == "POST")
    text += fmt::format("Accept: text/event-stream\r\nContent-Type: application/json\r\nContent-Length: {}\r\n",
                        body.size());
  return text.append("\r\n").append(body);
}

}  // namespace qg
