#pragma once
// Which path answers what.
#include <string>
#include <variant>

#include "server/http_reader.h"
#include "server/server_state.h"

namespace qg {

struct Answer {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  std::string headers;  // more lines, each ending in "\r\n"
};

// An answer that is there at once, or what is to be generated. Throws ApiError: no such path or method, not allowed.
std::variant<Answer, ApiKind> route(const Server::State& server, const HttpRequest& request);

Answer error_answer(const ApiError& error);
// The path as metrics count it: those that do not exist are one.
std::string counted_path(const std::string& path);

}  // namespace qg
