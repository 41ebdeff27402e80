#include "server/routes.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

#include "core/version.h"
#include "server/api_key.h"
#include "server/assets.h"

namespace qg {
namespace {

using Show = Answer (*)(const Server::State&);

Answer json_answer(const Json& json) {
  Answer answer;
  answer.body = json_text(json);
  return answer;
}

Json model_json(const ServedModel& model) {
  return Json{{"id", model.name},
              {"object", "model"},
              {"created", model.created_unix_s},
              {"owned_by", "quantgrid"},
              {"max_model_len", model.max_tokens}};
}

Answer show_models(const Server::State& server) {
  return json_answer(Json{{"object", "list"}, {"data", Json::array({model_json(server.model)})}});
}

Answer show_health(const Server::State& server) {
  Answer answer = json_answer(Json{{"status", server.healthy()  ? "ok"
                                              : server.draining ? "shutting down"
                                                                : "the engine failed in its last step"}});
  if (!server.healthy()) answer.status = 503;
  return answer;
}

Answer show_version(const Server::State&) {
  return json_answer(Json{{"version", version()}, {"commit", build_commit()}, {"build", build_options()}});
}

Answer show_metrics(const Server::State& server) {
  Engine& engine = server.engine_thread->engine();
  EngineView view;
  view.stats = engine.stats();
  view.page_tokens = engine.executor().page_tokens();
  view.model = server.model.name;
  view.kv = std::string(to_string(engine.executor().kv_format()));
  view.connections = static_cast<int64_t>(server.connections.size());
  Answer answer;
  answer.content_type = "text/plain; version=0.0.4; charset=utf-8";
  answer.body = metrics_text(server.metrics, view, server.options.roofline);
  return answer;
}

Answer show_openapi(const Server::State&) {
  Answer answer;
  answer.body = kOpenApi;
  return answer;
}

// The page loads nothing from anywhere, and no other page may show it in a frame.
Answer show_page(const Server::State&) {
  Answer answer;
  answer.content_type = "text/html; charset=utf-8";
  answer.body = kChatPage;
  answer.headers =
      "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
      "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'\r\n"
      "Referrer-Policy: no-referrer\r\n";
  return answer;
}

struct ShownPath {
  std::string_view path;
  Show show;
};
constexpr std::array<ShownPath, 6> kShown{{{"/", show_page},
                                           {"/health", show_health},
                                           {"/version", show_version},
                                           {"/metrics", show_metrics},
                                           {"/openapi.json", show_openapi},
                                           {"/v1/models", show_models}}};
constexpr std::string_view kCompletions = "/v1/completions", kChat = "/v1/chat/completions", kModels = "/v1/models/";

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1;
}

// Clients write the / of a name like org/model as %2F.
std::string percent_decoded(std::string_view text) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    const int high = text[i] == '%' && i + 2 < text.size() ? hex_digit(text[i + 1]) : -1;
    const int low = high >= 0 ? hex_digit(text[i + 2]) : -1;
    out += low >= 0 ? static_cast<char>(high << 4 | low) : text[i];
    if (low >= 0) i += 2;
  }
  return out;
}

void require_method(const HttpRequest& request, bool post) {
  const bool right = post ? request.method == "POST" : request.method == "GET" || request.method == "HEAD";
  if (right) return;
  throw ApiError(405, fmt::format("{} takes {} only", request.path.substr(0, 100), post ? "POST" : "GET and HEAD"), "",
                 post ? "use_post" : "use_get");
}

void require_allowed(const Server::State& server, const HttpRequest& request) {
  const ServerOptions& options = server.options;
  if (server.only_local && !is_local_host(request.host, options.allowed_hosts))
    throw ApiError(403, "this server answers to localhost only, and the Host header is another; --allow-host allows it",
                   "", "wrong_host");
  if (!options.api_key.empty() && request.path.starts_with("/v1/") &&
      !has_api_key(request.authorization, options.api_key))
    throw ApiError(401, "the API key is missing or wrong; send it as Authorization: Bearer KEY", "", "invalid_api_key");
}

// Other sites' pages cannot send this type without asking first.
void require_json(const HttpRequest& request) {
  std::string type = request.content_type.substr(0, request.content_type.find(';'));
  type.erase(type.find_last_not_of(" \t") + 1);
  std::ranges::transform(type, type.begin(),
                         [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  if (type != "application/json")
    throw ApiError(415, "send JSON, with the header Content-Type: application/json", "", "unsupported_media_type");
}

}  // namespace

std::variant<Answer, ApiKind> route(const Server::State& server, const HttpRequest& request) {
  require_allowed(server, request);
  for (const ShownPath& shown : kShown) {
    if (request.path != shown.path) continue;
    require_method(request, false);
    return shown.show(server);
  }
  if (request.path == kCompletions || request.path == kChat) {
    require_method(request, true);
    require_json(request);
    return request.path == kChat ? ApiKind::chat : ApiKind::completion;
  }
  if (request.path.starts_with(kModels)) {
    require_method(request, false);
    if (percent_decoded(std::string_view(request.path).substr(kModels.size())) == server.model.name)
      return json_answer(model_json(server.model));
    throw ApiError(404, "there is no such model here", "model", "model_not_found");
  }
  throw ApiError(404, "there is no such path; GET /openapi.json tells those that are", "", "unknown_path");
}

Answer error_answer(const ApiError& error) {
  Answer answer = json_answer(to_json(error));
  answer.status = error.status;
  if (error.retry_after_s > 0) answer.headers += fmt::format("Retry-After: {}\r\n", error.retry_after_s);
  if (error.status == 401) answer.headers += "WWW-Authenticate: Bearer\r\n";
  if (error.status == 405) answer.headers += error.code == "use_post" ? "Allow: POST\r\n" : "Allow: GET, HEAD\r\n";
  return answer;
}

std::string counted_path(const std::string& path) {
  if (path == kCompletions || path == kChat) return path;
  for (const ShownPath& shown : kShown)
    if (path == shown.path) return path;
  return "other";
}

}  // namespace qg
