#include "server/api_key.h"

#include <openssl/crypto.h>

#include <algorithm>

#include "core/hash.h"

namespace qg {
namespace {

std::string lower(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(), [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + 32) : c; });
  return out;
}

}  // namespace

bool has_api_key(std::string_view authorization, std::string_view key) {
  constexpr std::string_view kScheme = "bearer ";
  if (authorization.size() < kScheme.size() || lower(authorization.substr(0, kScheme.size())) != kScheme) return false;
  std::string_view given = authorization.substr(kScheme.size());
  while (given.starts_with(' ')) given.remove_prefix(1);
  // Hashes have one length, whatever the length of what was given.
  const std::string a = sha256_hex(given), b = sha256_hex(key);
  return CRYPTO_memcmp(a.data(), b.data(), a.size()) == 0;
}

bool is_local_host(std::string_view host, const std::vector<std::string>& more) {
  std::string name = lower(host);
  if (name.starts_with('[')) {
    name = name.substr(0, name.find(']') + 1);
  } else {
    name = name.substr(0, name.find(':'));
  }
  if (name.empty() || name == "localhost" || name == "[::1]" || name.ends_with(".localhost")) return true;
  if (name.starts_with("127.") && name.find_first_not_of("0123456789.") == std::string::npos) return true;
  return std::ranges::any_of(more, [&](const std::string& other) { return lower(other) == name; });
}

}  // namespace qg
