#pragma once
// {"String": "…"} or {"Regex": "…"}: what normalizers, pre-tokenizers and decoders look for.
#include <functional>
#include <optional>
#include <string>
#include <string_view>

#include "core/json.h"
#include "tokenizer/regex.h"

namespace qg {

class Pattern {
 public:
  explicit Pattern(std::string literal) : literal_(std::move(literal)) {}
  explicit Pattern(Regex regex) : regex_(std::move(regex)) {}
  static Pattern from_json(const JsonReader& owner, std::string_view key);  // throws Error

  void each_match(std::string_view text, const std::function<void(size_t begin, size_t end)>& on_match) const;
  std::string replaced(std::string_view text, std::string_view content) const;

  bool is_literal() const { return !regex_; }
  const std::string& literal() const { return literal_; }

 private:
  std::string literal_;
  std::optional<Regex> regex_;
};

// The reader of one component and the items of its list `key`, each with its place in errors.
std::vector<JsonReader> read_components(const JsonReader& owner, std::string_view key);

}  // namespace qg
