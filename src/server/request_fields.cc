#include "server/request_fields.h"

#include <fmt/format.h>

#include <cmath>
#include <utility>

namespace qg {

std::string shown(const SortedJson& value) {
  constexpr size_t kMost = 60;
  if (value.is_object()) return "an object";
  if (value.is_array()) return fmt::format("a list of {}", value.size());
  std::string text = value.dump(-1, ' ', true, SortedJson::error_handler_t::replace);  // ASCII: may be cut anywhere
  if (text.size() > kMost) text = text.substr(0, kMost) + "...";
  return text;
}

RequestFields::RequestFields(const SortedJson& object, std::string prefix)
    : object_(object), prefix_(std::move(prefix)) {
  if (object.is_object()) return;
  const std::string name = prefix_.empty() ? "" : prefix_.substr(0, prefix_.size() - 1);
  throw ApiError(400, (name.empty() ? "the request" : name) + " should be a JSON object, is " + shown(object), name);
}

const SortedJson* RequestFields::find(const char* name) {
  known_.insert(name);
  const auto it = object_.find(name);
  return it == object_.end() || it->is_null() ? nullptr : &*it;
}

void RequestFields::wrong(const char* name, const std::string& wanted) const {
  const auto it = object_.find(name);
  throw ApiError(400,
                 fmt::format("{}{} should be {}, is {}", prefix_, name, wanted,
                             it == object_.end() ? std::string("missing") : shown(*it)),
                 prefix_ + name);
}

std::optional<int64_t> RequestFields::integer(const char* name, int64_t least, int64_t most) {
  const SortedJson* value = find(name);
  if (!value) return {};
  const auto range = [&] { return fmt::format("a whole number from {} to {}", least, most); };
  if (!value->is_number_integer()) wrong(name, range());
  if (value->is_number_unsigned() && value->get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) wrong(name, range());
  const int64_t number = value->get<int64_t>();
  if (number < least || number > most) wrong(name, range());
  return number;
}

std::optional<double> RequestFields::number(const char* name, double least, double most) {
  const SortedJson* value = find(name);
  if (!value) return {};
  const double number = value->is_number() ? value->get<double>() : NAN;
  if (!(number >= least && number <= most)) wrong(name, fmt::format("a number from {} to {}", least, most));
  return number;
}

std::optional<bool> RequestFields::boolean(const char* name) {
  const SortedJson* value = find(name);
  if (!value) return {};
  if (!value->is_boolean()) wrong(name, "true or false");
  return value->get<bool>();
}

std::optional<std::string> RequestFields::string(const char* name) {
  const SortedJson* value = find(name);
  if (!value) return {};
  if (!value->is_string()) wrong(name, "a string");
  return value->get<std::string>();
}

void RequestFields::refuse(const char* name, const SortedJson& neutral, const char* why) {
  const SortedJson* value = find(name);
  if (!value || *value == neutral) return;
  throw ApiError(400, fmt::format("{}{} is not supported: {}", prefix_, name, why), prefix_ + name,
                 "unsupported_parameter");
}

void RequestFields::ignore(const char* name) {
  known_.insert(name);
}

void RequestFields::refuse_unknown() const {
  for (const auto& [name, value] : object_.items()) {
    if (known_.contains(name)) continue;
    const std::string cut = name.size() > 60 ? name.substr(0, 60) : name;
    throw ApiError(400, fmt::format("there is no field {}", shown(SortedJson(prefix_ + cut))), prefix_ + cut,
                   "unknown_parameter");
  }
}

}  // namespace qg
