#pragma once
// Who may use the API.
#include <string>
#include <string_view>
#include <vector>

namespace qg {

// Whether an Authorization header carries the key. The time does not tell how much of it was right.
bool has_api_key(std::string_view authorization, std::string_view key);

// Whether a Host header names this server when it listens on a loopback address: its literals, localhost, and `more`.
// A page from elsewhere whose name was pointed at 127.0.0.1 (DNS rebinding) carries its own name.
bool is_local_host(std::string_view host, const std::vector<std::string>& more);

}  // namespace qg
