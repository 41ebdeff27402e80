#pragma once
// Typed reads of a request's fields. Wrong types and ranges are ApiErrors of status 400 that name the field; null
// counts as absent, as in OpenAI's API; fields that nobody asked for are refused at the end.
#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "core/json.h"
#include "server/api_error.h"

namespace qg {

class RequestFields {
 public:
  // `prefix` stands before names in messages ("stream_options."). Throws when `object` is not an object.
  explicit RequestFields(const SortedJson& object, std::string prefix = {});

  const SortedJson* find(const char* name);  // null when absent
  std::optional<int64_t> integer(const char* name, int64_t least, int64_t most);
  std::optional<double> number(const char* name, double least, double most);
  std::optional<bool> boolean(const char* name);
  std::optional<std::string> string(const char* name);

  // A field of the API that this server does not have: absent, null and `neutral` (what changes nothing) are accepted.
  void refuse(const char* name, const SortedJson& neutral, const char* why);
  void ignore(const char* name);  // accepted whatever it is: it changes no reply
  void refuse_unknown() const;    // call last: every field must have been asked for

  [[noreturn]] void wrong(const char* name, const std::string& wanted) const;
  const std::string& prefix() const { return prefix_; }

 private:
  const SortedJson& object_;
  std::string prefix_;
  std::set<std::string_view> known_;
};

// A value as an error message shows it: short, whatever it is.
std::string shown(const SortedJson& value);

}  // namespace qg
