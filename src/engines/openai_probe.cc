#include "engines/openai_probe.h"

#include <fmt/format.h>

#include <algorithm>

#include "bench/load.h"
#include "core/error.h"
#include "core/interrupt.h"
#include "core/json.h"
#include "engines/openai_stream.h"

namespace qg {
namespace {

constexpr double kAskSeconds = 20;
constexpr uint64_t kProbeSeed = 0x70726f6265;  // its prompts are met in no workload
constexpr int kMostTries = 8;

// The body of a GET as JSON; null when the server has no such path or says no JSON.
Json get_json(OpenAiClient& client, const char* path) {
  try {
    const OpenAiClient::Answer answer = client.ask("GET", path, "", kAskSeconds);
    if (answer.status != 200) return nullptr;
    return parse_json(answer.body, path);
  } catch (const Error&) {
    return nullptr;
  }
}

std::string text_of(const Json& object, const char* key) {
  if (!object.is_object()) return "";
  const auto it = object.find(key);
  return it != object.end() && it->is_string() ? it->get<std::string>() : "";
}

// "vllm 0.12.0". Servers name themselves in several places; what is not there is left out.
std::string server_version(OpenAiClient& client, const Json& models) {
  std::string name, version = text_of(get_json(client, "/version"), "version");
  if (models.is_object() && models.contains("data") && models["data"].is_array() && !models["data"].empty())
    name = text_of(models["data"][0], "owned_by");
  if (version.empty()) {
    const Json api = get_json(client, "/openapi.json");
    if (api.is_object() && api.contains("info")) {
      version = text_of(api["info"], "version");
      if (const std::string title = text_of(api["info"], "title"); !title.empty()) name = title;
    }
  }
  std::string text = name.empty() || version.empty() ? name + version : name + " " + version;
  std::erase_if(text, [](char c) { return static_cast<unsigned char>(c) < 0x20; });
  return text.substr(0, 100);
}

// Sends one streaming request and waits for its end.
StreamEvent stream_once(OpenAiClient& client, const RequestDialect& dialect, std::span<const int32_t> prompt,
                        const PromptText& text) {
  client.post(-1, dialect.path(),
              request_body(dialect, prompt, dialect.token_prompts ? std::string() : text(prompt), kProbeOutputTokens),
              kProbeOutputTokens);
  for (;;) {
    stop_if_interrupted("nothing of this workload was measured");
    client.run_until(ClientClock::now() + std::chrono::seconds(1));
    for (StreamEvent& event : client.take_events())
      if (event.finished) return event;
  }
}

// The same without a stream: servers that put no usage into streams put it here.
void ask_for_usage(OpenAiClient& client, std::span<const int32_t> prompt, const PromptText& text, ServerFacts& facts) {
  RequestDialect plain = facts.dialect;
  plain.include_usage = plain.running_usage = false;
  Json body =
      parse_json(request_body(plain, prompt, plain.token_prompts ? std::string() : text(prompt), kProbeOutputTokens),
                 "the request");
  body["stream"] = false;
  try {
    const OpenAiClient::Answer answer = client.ask("POST", plain.path(), body.dump(), 10 * kAskSeconds);
    const Json json = parse_json(answer.body, "the answer");
    if (answer.status == 200 && json.contains("usage") && json["usage"].contains("prompt_tokens"))
      facts.prompt_tokens = json["usage"]["prompt_tokens"].get<int64_t>();
  } catch (const std::exception&) {
    return;  // not known, then
  }
}

EngineRun find_model(OpenAiClient& client, const Json& models, ServerFacts& facts) {
  if (models.is_object() && models.contains("data") && models["data"].is_array())
    for (const Json& model : models["data"])
      if (const std::string id = text_of(model, "id"); !id.empty()) facts.models.push_back(id);
  std::string& wanted = facts.dialect.model;
  if (!wanted.empty()) {
    if (facts.models.empty() || std::find(facts.models.begin(), facts.models.end(), wanted) != facts.models.end())
      return {};
    return failed_run(
        CaseStatus::failed, "no_model",
        fmt::format("the server has no model \"{}\"; it lists {}", wanted, fmt::join(facts.models, ", ")));
  }
  if (facts.models.size() == 1) {
    wanted = facts.models.front();
    return {};
  }
  if (!facts.models.empty())
    return failed_run(CaseStatus::failed, "no_model",
                      fmt::format("the server lists several models ({}); name one", fmt::join(facts.models, ", ")));
  // Why it lists none, in its own words.
  try {
    const OpenAiClient::Answer answer = client.ask("GET", "/v1/models", "", kAskSeconds);
    return failed_run(
        CaseStatus::failed, answer.status == 200 ? "no_model" : fmt::format("http_{}", answer.status),
        fmt::format("GET /v1/models names no model (HTTP {}: {}); name it", answer.status, error_message(answer.body)));
  } catch (const Error& e) {
    const bool timeout = e.problem().find("in time") != std::string::npos;
    return failed_run(timeout ? CaseStatus::timeout : CaseStatus::failed, timeout ? kErrorTimeout : "connect",
                      e.problem() + "; is the server up?");
  }
}

}  // namespace

CaseStatus status_of_failure(const std::string& code, const std::string& reason) {
  if (code == kErrorTimeout) return CaseStatus::timeout;
  if (reason.find("out of memory") != std::string::npos) return CaseStatus::oom;
  return CaseStatus::failed;
}

EngineRun identify_server(OpenAiClient& client, ServerFacts& facts) {
  const Json models = get_json(client, "/v1/models");
  if (EngineRun found = find_model(client, models, facts); !found.ok()) return found;
  facts.version = server_version(client, models);
  return {};
}

EngineRun probe_server(OpenAiClient& client, const RequestDialect& wanted, int64_t probe_tokens, int64_t vocab,
                       const PromptText& text, ServerFacts& facts) {
  facts = {};
  facts.dialect = wanted;
  if (EngineRun found = identify_server(client, facts); !found.ok()) return found;
  Load load;
  load.isl = probe_tokens;
  load.seed = kProbeSeed;
  const std::vector<int32_t> prompt = load_prompt(load, 0, vocab);
  for (int tries = 0; tries < kMostTries; ++tries) {
    client.reset_counts();
    const StreamEvent end = stream_once(client, facts.dialect, prompt, text);
    if (end.error.empty()) {
      const ClientCounts& counts = client.counts();
      facts.counts_tokens = counts.completions_counted > 0;
      if (counts.prompts_counted > 0)
        facts.prompt_tokens = counts.prompt_tokens;
      else
        ask_for_usage(client, prompt, text, facts);
      return {};
    }
    std::string left_out;
    if (end.error_code == "http_400" || end.error_code == "http_422")
      left_out = leave_out_refused(facts.dialect, end.error);
    if (left_out.empty()) {
      std::string reason = "the server does not answer a short request: " + end.error;
      if (facts.dialect.token_prompts && end.error_code.starts_with("http_4") &&
          end.error.find("prompt") != std::string::npos)
        reason += "; if it takes no token ids, use --prompts text";
      return failed_run(status_of_failure(end.error_code, end.error), end.error_code, reason);
    }
    facts.left_out += (facts.left_out.empty() ? "" : ", ") + left_out;
  }
  return failed_run(CaseStatus::failed, "refused",
                    "the server refuses every form of request; it left out " + facts.left_out);
}

}  // namespace qg
