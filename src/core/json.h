#pragma once
// JSON through nlohmann-json, with reads that name the file and the key when something is missing or of the wrong type.
#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace qg {

using Json = nlohmann::ordered_json;
// For objects of very many keys (a vocabulary): Json looks keys up one by one, this one in a tree.
using SortedJson = nlohmann::json;

inline constexpr int64_t kMaxJsonBytes = int64_t{256} << 20;

// Parses text or a file; throws Error naming `where` (the file) and the line. Nesting deeper than 64 is refused.
Json parse_json(std::string_view text, const std::string& where);
SortedJson parse_sorted_json(std::string_view text, const std::string& where);
Json read_json(const std::filesystem::path& path, int64_t max_bytes = kMaxJsonBytes);

// Typed reads of keys of one object. `where` names the file (and the object) in errors.
class JsonReader {
 public:
  JsonReader(const Json& object, std::string where);  // throws Error when it is not an object

  bool has(std::string_view key) const;  // present and not null
  int64_t get_int(std::string_view key, std::optional<int64_t> fallback = {}, int64_t min = INT64_MIN,
                  int64_t max = INT64_MAX) const;
  double get_double(std::string_view key, std::optional<double> fallback = {}) const;
  bool get_bool(std::string_view key, std::optional<bool> fallback = {}) const;
  std::string get_string(std::string_view key, std::optional<std::string> fallback = {}) const;
  JsonReader get_object(std::string_view key) const;
  const Json& get(std::string_view key) const;  // throws Error when absent
  const std::string& where() const { return where_; }

 private:
  [[noreturn]] void wrong(std::string_view key, std::string_view wanted) const;
  const Json* object_;
  std::string where_;
};

}  // namespace qg
