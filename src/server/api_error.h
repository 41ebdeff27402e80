#pragma once
// What a client is told when its request fails: a status of HTTP and the error object of OpenAI's API.
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>

#include "core/json_text.h"

namespace qg {

struct ApiError : std::runtime_error {
  // param: the field at fault, empty when there is none. error_code: a word for programs, empty when there is none.
  ApiError(int http_status, std::string message, std::string at_param = {}, std::string error_code = {})
      : std::runtime_error(std::move(message)),
        status(http_status),
        param(std::move(at_param)),
        code(std::move(error_code)) {}

  int status;
  std::string param, code;
  int retry_after_s = 0;  // > 0: sent as Retry-After
};

inline constexpr int kClientLeft = 499;  // never sent: nobody is there to read it

std::string_view error_type(int status);  // OpenAI's word for a kind of error: "invalid_request_error", …
Json to_json(const ApiError& error);      // {"error": {message, type, param, code}}

}  // namespace qg
