#include "core/json.h"

#include <cmath>

#include "core/error.h"
#include "core/file.h"

namespace qg {
namespace {

// nlohmann parses recursively, so that a file of a million '[' would overflow the stack: count first, outside strings.
void check_depth(std::string_view text, const std::string& where) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > 64) throw Error("JSON nested deeper than 64", where);
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
}

template <typename Value>
Value parse_checked(std::string_view text, const std::string& where) {
  check_depth(text, where);
  try {
    return Value::parse(text);
  } catch (const nlohmann::json::exception& e) {
    std::string reason = e.what();
    if (const size_t colon = reason.find("] "); colon != std::string::npos) reason = reason.substr(colon + 2);
    throw Error("not valid JSON: " + reason, where);
  }
}

}  // namespace

Json parse_json(std::string_view text, const std::string& where) {
  return parse_checked<Json>(text, where);
}

SortedJson parse_sorted_json(std::string_view text, const std::string& where) {
  return parse_checked<SortedJson>(text, where);
}

Json read_json(const std::filesystem::path& path, int64_t max_bytes) {
  return parse_json(read_file(path, max_bytes), path.string());
}

JsonReader::JsonReader(const Json& object, std::string where) : object_(&object), where_(std::move(where)) {
  if (!object.is_object()) throw Error("should be a JSON object", where_);
}

bool JsonReader::has(std::string_view key) const {
  const auto it = object_->find(std::string(key));
  return it != object_->end() && !it->is_null();
}

const Json& JsonReader::get(std::string_view key) const {
  const auto it = object_->find(std::string(key));
  if (it == object_->end() || it->is_null()) throw Error("key \"" + std::string(key) + "\" is missing", where_);
  return *it;
}

void JsonReader::wrong(std::string_view key, std::string_view wanted) const {
  std::string value = get(key).dump(-1, ' ', false, Json::error_handler_t::replace);
  if (value.size() > 60) value = value.substr(0, 60) + "…";
  throw Error("key \"" + std::string(key) + "\" should be " + std::string(wanted) + ", is " + value, where_);
}

int64_t JsonReader::get_int(std::string_view key, std::optional<int64_t> fallback, int64_t min, int64_t max) const {
  if (!has(key) && fallback) return *fallback;
  const Json& value = get(key);
  if (!value.is_number_integer()) wrong(key, "a whole number");
  if (value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX))
    wrong(key, "a smaller number");
  const int64_t number = value.get<int64_t>();
  if (number < min || number > max) wrong(key, "between " + std::to_string(min) + " and " + std::to_string(max));
  return number;
}

double JsonReader::get_double(std::string_view key, std::optional<double> fallback) const {
  if (!has(key) && fallback) return *fallback;
  if (!get(key).is_number()) wrong(key, "a number");
  const double number = get(key).get<double>();
  if (!std::isfinite(number)) wrong(key, "a finite number");
  return number;
}

bool JsonReader::get_bool(std::string_view key, std::optional<bool> fallback) const {
  if (!has(key) && fallback) return *fallback;
  if (!get(key).is_boolean()) wrong(key, "true or false");
  return get(key).get<bool>();
}

std::string JsonReader::get_string(std::string_view key, std::optional<std::string> fallback) const {
  if (!has(key) && fallback) return *fallback;
  if (!get(key).is_string()) wrong(key, "a string");
  return get(key).get<std::string>();
}

JsonReader JsonReader::get_object(std::string_view key) const {
  return JsonReader(get(key), where_ + ", \"" + std::string(key) + "\"");
}

}  // namespace qg
