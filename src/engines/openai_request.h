#pragma once
// The requests of the load client: where they go, and which fields beyond OpenAI's own a server is sent.
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace qg {

struct BaseUrl {
  std::string host, port, prefix;  // "127.0.0.1", "8000", "" or "/some/path"; without /v1

  std::string authority() const;  // for the Host header
};

// "http://127.0.0.1:8000", with or without /v1 behind it. Throws Error on anything else; there is no TLS.
BaseUrl parse_base_url(std::string_view text);

// How this server is asked. What a server refuses is left out (openai_probe.h); what is left stands in the record.
struct RequestDialect {
  std::string model;
  bool chat = false;          // /v1/chat/completions; else /v1/completions
  bool token_prompts = true;  // prompts are token ids; else text
  bool ignore_eos = true;     // vLLM, TensorRT-LLM, SGLang, quantgrid
  bool min_tokens = true;     // vLLM, llama-cpp-python: the least number of tokens, which keeps the end-of-text away
  bool include_usage = true;  // stream_options: the server's own count at the end
  bool running_usage = true;  // stream_options.continuous_usage_stats: in every event

  std::string path() const;      // "/v1/completions"
  std::string describe() const;  // for records: "token prompts, ignore_eos, usage in each event"
};

// Body of a streaming request for `output_tokens` greedy tokens; tokens or text, as the dialect says.
std::string request_body(const RequestDialect& dialect, std::span<const int32_t> tokens, std::string_view text,
                         int64_t output_tokens);
// Leaves out what a refusal (400, 422) names, or else the next field that not every server knows; returns what that
// was, empty when nothing is left to leave out.
std::string leave_out_refused(RequestDialect& dialect, std::string_view refusal);

// A whole HTTP/1.1 request.
std::string http_request(const BaseUrl& base, std::string_view method, std::string_view path, std::string_view api_key,
                         std::string_view body);

}  // namespace qg
