#include "tokenizer/pattern.h"

#include "core/error.h"

namespace qg {

Pattern Pattern::from_json(const JsonReader& owner, std::string_view key) {
  const JsonReader pattern = owner.get_object(key);
  if (pattern.has("Regex")) return Pattern(Regex(pattern.get_string("Regex"), pattern.where()));
  std::string literal = pattern.get_string("String");
  if (literal.empty()) throw Error("\"String\" should not be empty", pattern.where());
  return Pattern(std::move(literal));
}

void Pattern::each_match(std::string_view text, const std::function<void(size_t, size_t)>& on_match) const {
  if (regex_) return regex_->each_match(text, on_match);
  for (size_t at = text.find(literal_); at != std::string_view::npos; at = text.find(literal_, at + literal_.size()))
    on_match(at, at + literal_.size());
}

std::string Pattern::replaced(std::string_view text, std::string_view content) const {
  std::string out;
  out.reserve(text.size());
  size_t done = 0;
  each_match(text, [&](size_t begin, size_t end) {
    (out += text.substr(done, begin - done)) += content;
    done = end;
  });
  return out += text.substr(done);
}

std::vector<JsonReader> read_components(const JsonReader& owner, std::string_view key) {
  const Json& list = owner.get(key);
  if (!list.is_array()) throw Error("\"" + std::string(key) + "\" should be a list", owner.where());
  std::vector<JsonReader> readers;
  for (size_t i = 0; i < list.size(); ++i)
    readers.emplace_back(list[i], owner.where() + "." + std::string(key) + "[" + std::to_string(i) + "]");
  return readers;
}

}  // namespace qg
