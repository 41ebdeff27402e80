#include "grid/toml_reader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <tuple>
#include <utility>

#include "core/error.h"
#include "grid/names.h"

namespace qg {
namespace {

constexpr size_t kMaxShownLength = 60;
constexpr size_t kMaxStringBytes = 4096;

// What a file says is shown in errors: no control characters, not longer than a line.
std::string shown(std::string_view text) {
  std::string out;
  for (char c : text.substr(0, kMaxShownLength)) out += static_cast<unsigned char>(c) < 0x20 || c == 0x7f ? '?' : c;
  if (text.size() > kMaxShownLength) out += "...";
  return out;
}

std::string_view type_name(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table:
      return "a table";
    case toml::node_type::array:
      return "a list";
    case toml::node_type::string:
      return "a string";
    case toml::node_type::integer:
      return "a whole number";
    case toml::node_type::floating_point:
      return "a number";
    case toml::node_type::boolean:
      return "true or false";
    default:
      return "a date or time";
  }
}

}  // namespace

namespace {

constexpr const char* kTomlAdvice = "strings stand in plain double quotes (\"), lists in [ ], tables begin with [name]";

// The first line that begins a table but has no key behind the bracket; 0 when there is none.
int64_t line_of_broken_header(std::string_view text) {
  size_t begin = 0;
  for (int64_t line = 1; begin < text.size(); ++line) {
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string_view row = text.substr(begin, end - begin);
    const size_t bracket = row.find_first_not_of(" \t"), key = row.find_first_not_of(" \t[");
    if (bracket != std::string_view::npos && row[bracket] == '[' && key != std::string_view::npos &&
        !std::isalnum(static_cast<unsigned char>(row[key])) &&
        std::string_view("-_\"']").find(row[key]) == std::string_view::npos)
      return line;
    begin = end + 1;
  }
  return 0;
}

}  // namespace

toml::table parse_toml(std::string_view text, const std::string& file) {
  if (static_cast<int64_t>(text.size()) > kMaxTomlBytes)
    throw Error(fmt::format("{} bytes are too many for a grid file; the limit is {}", text.size(), kMaxTomlBytes),
                file);
  try {
    return toml::parse(text, std::string_view(file));
  } catch (const toml::parse_error& e) {
    throw Error(fmt::format("not valid TOML: {}", shown(e.description())),
                fmt::format("{}:{}", file, e.source().begin.line), kTomlAdvice);
  } catch (const TomlSurprise&) {
    const int64_t line = line_of_broken_header(text);
    throw Error("not valid TOML: a key is expected behind \"[\"", line > 0 ? fmt::format("{}:{}", file, line) : file,
                kTomlAdvice);
  }
}

TomlReader::TomlReader(const toml::table& table, std::string file, std::string path)
    : table_(&table), file_(std::move(file)), path_(std::move(path)) {}

std::string TomlReader::where(const toml::node& node, std::string_view key) const {
  std::string full = path_;
  if (!full.empty() && !key.empty() && key.front() != '[') full += '.';
  full += shown(key);
  const auto line = node.source().begin.line;
  const std::string place = line > 0 ? fmt::format("{}:{}", file_, line) : file_;
  return full.empty() ? place : fmt::format("{}: {}", place, full);
}

std::string TomlReader::where(std::string_view key) const {
  const toml::node* node = key.empty() ? nullptr : table_->get(key);
  return node ? where(*node, key) : where(*table_, key);
}

void TomlReader::wrong_type(const toml::node& node, std::string_view key, std::string_view wanted) const {
  throw Error(fmt::format("{} is expected, but {} stands there", wanted, type_name(node)), where(node, key),
              fmt::format("write {}", wanted));
}

const toml::node& TomlReader::require(std::string_view key) const {
  const toml::node* node = table_->get(key);
  if (!node) throw Error(fmt::format("the key \"{}\" is missing", key), where(), fmt::format("add {} = ...", key));
  return *node;
}

std::string TomlReader::get_string(std::string_view key, std::optional<std::string> fallback) const {
  if (fallback && !has(key)) return *fallback;
  const toml::node& node = require(key);
  if (!node.is_string()) wrong_type(node, key, "a string");
  std::string text = node.as_string()->get();
  const bool has_control =
      std::any_of(text.begin(), text.end(), [](unsigned char c) { return (c < 0x20 && c != '\n') || c == 0x7f; });
  if (has_control || text.size() > kMaxStringBytes)
    throw Error(fmt::format("the string holds control characters or more than {} bytes", kMaxStringBytes),
                where(node, key), "write plain text");
  return text;
}

int64_t TomlReader::get_int(std::string_view key, std::optional<int64_t> fallback, int64_t min, int64_t max) const {
  if (fallback && !has(key)) return *fallback;
  const toml::node& node = require(key);
  if (!node.is_integer()) wrong_type(node, key, "a whole number");
  const int64_t value = node.as_integer()->get();
  if (value < min || value > max)
    throw Error(fmt::format("{} is out of range", value), where(node, key),
                fmt::format("use a value from {} to {}", min, max));
  return value;
}

double TomlReader::get_double(std::string_view key, std::optional<double> fallback, double min, double max) const {
  if (fallback && !has(key)) return *fallback;
  const toml::node& node = require(key);
  if (!node.is_number()) wrong_type(node, key, "a number");
  const double value =
      node.is_integer() ? static_cast<double>(node.as_integer()->get()) : node.as_floating_point()->get();
  if (!(value >= min && value <= max))
    throw Error(fmt::format("{} is out of range", value), where(node, key),
                fmt::format("use a value from {} to {}", min, max));
  return value;
}

bool TomlReader::get_bool(std::string_view key, std::optional<bool> fallback) const {
  if (fallback && !has(key)) return *fallback;
  const toml::node& node = require(key);
  if (!node.is_boolean()) wrong_type(node, key, "true or false");
  return node.as_boolean()->get();
}

std::vector<std::string> TomlReader::get_strings(std::string_view key, bool required) const {
  if (!required && !has(key)) return {};
  const toml::node& node = require(key);
  if (!node.is_array()) wrong_type(node, key, "a list of strings");
  std::vector<std::string> values;
  for (const toml::node& item : *node.as_array()) {
    if (!item.is_string()) wrong_type(item, key, "a string in the list");
    values.push_back(item.as_string()->get());
  }
  if (required && values.empty()) throw Error("the list is empty", where(node, key), "name at least one");
  return values;
}

std::optional<TomlReader> TomlReader::get_table(std::string_view key) const {
  const toml::node* node = table_->get(key);
  if (!node) return std::nullopt;
  if (!node->is_table()) wrong_type(*node, key, "a table");
  return TomlReader(*node->as_table(), file_, path_.empty() ? shown(key) : path_ + "." + shown(key));
}

std::vector<TomlReader> TomlReader::get_tables(std::string_view key) const {
  std::vector<TomlReader> tables;
  const toml::array* array = get_array(key);
  if (!array) return tables;
  for (const toml::node& item : *array) {
    if (!item.is_table()) wrong_type(item, key, "a table in the list");
    tables.emplace_back(*item.as_table(), file_, fmt::format("{}[{}]", key, tables.size() + 1));
  }
  return tables;
}

const toml::array* TomlReader::get_array(std::string_view key) const {
  const toml::node* node = table_->get(key);
  if (!node) return nullptr;
  if (!node->is_array()) wrong_type(*node, key, "a list");
  return node->as_array();
}

std::vector<std::string> TomlReader::keys() const {
  std::vector<std::pair<toml::source_position, std::string>> found;
  for (const auto& [key, node] : *table_) found.emplace_back(node.source().begin, std::string(key.str()));
  std::sort(found.begin(), found.end(), [](const auto& a, const auto& b) {
    return std::tie(a.first.line, a.first.column, a.second) < std::tie(b.first.line, b.first.column, b.second);
  });
  std::vector<std::string> names;
  for (auto& [position, name] : found) names.push_back(std::move(name));
  return names;
}

void TomlReader::only(const std::vector<std::string>& allowed) const {
  for (const std::string& key : keys())
    if (std::find(allowed.begin(), allowed.end(), key) == allowed.end())
      throw Error(fmt::format("the key \"{}\" is not known here", shown(key)), where(key),
                  allowed_values(key, allowed));
}

void TomlReader::not_one_of(std::string_view key, std::string_view value,
                            const std::vector<std::string>& allowed) const {
  const toml::node* node = table_->get(key);
  not_one_of(node ? *node : *table_, key, value, allowed);
}

void TomlReader::not_one_of(const toml::node& node, std::string_view key, std::string_view value,
                            const std::vector<std::string>& allowed) const {
  throw Error(fmt::format("\"{}\" is not a value that may stand here", shown(value)), where(node, key),
              allowed_values(value, allowed));
}

std::string allowed_values(std::string_view value, const std::vector<std::string>& allowed) {
  const std::string near = nearest_name(value, allowed);
  return fmt::format("{}one of: {}", near.empty() ? "" : fmt::format("did you mean \"{}\"? ", near),
                     fmt::join(allowed, ", "));
}

}  // namespace qg
