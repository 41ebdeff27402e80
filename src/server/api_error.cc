#include "server/api_error.h"

namespace qg {

std::string_view error_type(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    default:
      return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

Json to_json(const ApiError& error) {
  const auto text_or_null = [](const std::string& text) { return text.empty() ? Json() : Json(text); };
  return Json{{"error",
               {{"message", error.what()},
                {"type", error_type(error.status)},
                {"param", text_or_null(error.param)},
                {"code", text_or_null(error.code)}}}};
}

}  // namespace qg
