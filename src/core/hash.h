#pragma once
// SHA-256 (OpenSSL's libcrypto, which uses the processor's SHA instructions).
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace qg {

class Sha256 {
 public:
  Sha256();
  ~Sha256();
  void update(const void* data, size_t bytes);
  void update(std::string_view text) { update(text.data(), text.size()); }
  std::string hex();  // 64 hexadecimal digits; ends the hash

 private:
  struct State;
  std::unique_ptr<State> state_;
};

std::string sha256_hex(std::string_view text);
std::string sha256_file(const std::filesystem::path& path);  // throws Error when it cannot be read

}  // namespace qg
