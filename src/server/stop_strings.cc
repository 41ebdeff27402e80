#include "server/stop_strings.h"

#include <algorithm>
#include <utility>

namespace qg {
namespace {

// Where the longest end of `text` begins that is a beginning of `stop`; text.size() when there is none.
size_t possible_beginning(std::string_view text, std::string_view stop) {
  for (size_t length = std::min(text.size(), stop.size() - 1); length > 0; --length)
    if (text.substr(text.size() - length) == stop.substr(0, length)) return text.size() - length;
  return text.size();
}

}  // namespace

StopStrings::StopStrings(std::vector<std::string> strings, bool include)
    : strings_(std::move(strings)), include_(include) {}

std::string StopStrings::push(std::string_view text) {
  if (found_) return {};
  if (strings_.empty()) return std::string(text);
  held_ += text;
  // The one that is complete first, and of several that end together the longest: so the text does not depend on the
  // parts in which it came.
  size_t begin = std::string::npos, end = std::string::npos;
  for (const std::string& stop : strings_) {
    const size_t at = held_.find(stop);
    if (at == std::string::npos) continue;
    if (at + stop.size() > end || (at + stop.size() == end && at >= begin)) continue;
    begin = at;
    end = at + stop.size();
  }
  if (begin != std::string::npos) {
    found_ = true;
    std::string out = held_.substr(0, include_ ? end : begin);
    held_.clear();
    return out;
  }
  size_t safe = held_.size();
  for (const std::string& stop : strings_) safe = std::min(safe, possible_beginning(held_, stop));
  std::string out = held_.substr(0, safe);
  held_.erase(0, safe);
  return out;
}

std::string StopStrings::finish() {
  return std::exchange(held_, {});
}

}  // namespace qg
