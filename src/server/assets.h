#pragma once
// Files that are compiled into the program (cmake/embed.cmake).
#include <string_view>

namespace qg {

extern const std::string_view kChatPage;  // src/server/chat_page.html
extern const std::string_view kOpenApi;   // src/server/openapi.json

}  // namespace qg
