#pragma once
// TOML through toml++, with reads that name file, line, key and the allowed values. Strict: a key that nobody asked
// about is an error.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "grid/tomlplusplus.h"

namespace qg {

inline constexpr int64_t kMaxTomlBytes = int64_t{4} << 20;

// Throws Error naming file and line.
toml::table parse_toml(std::string_view text, const std::string& file);

// Typed reads of the keys of one table. `path` is the table's own key, for errors ("accuracy", "workloads[2]").
class TomlReader {
 public:
  TomlReader(const toml::table& table, std::string file, std::string path);

  bool has(std::string_view key) const { return table_->contains(key); }
  bool is_table(std::string_view key) const { return table_->get(key) && table_->get(key)->is_table(); }
  std::string get_string(std::string_view key, std::optional<std::string> fallback = {}) const;
  int64_t get_int(std::string_view key, std::optional<int64_t> fallback, int64_t min, int64_t max) const;
  double get_double(std::string_view key, std::optional<double> fallback, double min, double max) const;
  bool get_bool(std::string_view key, std::optional<bool> fallback = {}) const;
  std::vector<std::string> get_strings(std::string_view key, bool required = true) const;
  std::optional<TomlReader> get_table(std::string_view key) const;  // empty when absent
  std::vector<TomlReader> get_tables(std::string_view key) const;   // [[key]]; empty when absent
  const toml::array* get_array(std::string_view key) const;         // null when absent
  std::vector<std::string> keys() const;                            // in the order of the file

  // Throws Error at the first key that is not one of `allowed`.
  void only(const std::vector<std::string>& allowed) const;
  // "file:12" of the key, or of the table when there is no such key; then the key's full path.
  std::string where(std::string_view key = {}) const;
  std::string where(const toml::node& node, std::string_view key) const;
  // Throws Error "... is not one of ..." with the allowed values and a "did you mean".
  [[noreturn]] void not_one_of(std::string_view key, std::string_view value,
                               const std::vector<std::string>& allowed) const;
  [[noreturn]] void not_one_of(const toml::node& node, std::string_view key, std::string_view value,
                               const std::vector<std::string>& allowed) const;

 private:
  [[noreturn]] void wrong_type(const toml::node& node, std::string_view key, std::string_view wanted) const;
  const toml::node& require(std::string_view key) const;
  const toml::table* table_;
  std::string file_, path_;
};

// "did you mean int4_awq? one of: fp16, fp8, int4_awq, int8_sq"
std::string allowed_values(std::string_view value, const std::vector<std::string>& allowed);

}  // namespace qg
