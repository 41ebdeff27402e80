#pragma once
// One table of fields per kind of line: JSON, SQLite, CSV and docs/schema.md all come from it.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "core/json.h"
#include "record/environment.h"
#include "record/record.h"

namespace qg {

template <typename T>
using FieldMember = std::variant<std::string T::*, int64_t T::*, std::optional<int64_t> T::*,
                                 std::optional<double> T::*, bool T::*, Json T::*>;

template <typename T>
struct Field {
  std::string_view name;
  FieldMember<T> member;
  std::string_view meaning;
};

const std::vector<Field<Record>>& record_fields();
const std::vector<Field<Environment>>& environment_fields();

// "text", "integer", "number", "yes/no" or "list"
template <typename T>
std::string_view type_name(const Field<T>& field);

// JSON without the fields that are not known; unknown keys stand at the end.
template <typename T>
Json fields_to_json(const T& value, const std::vector<Field<T>>& fields);
// Strict on types; keys of `known_elsewhere` are passed over, all others that have no field go to `more`.
template <typename T>
T fields_from_json(const Json& object, const std::vector<Field<T>>& fields, const std::string& where,
                   const std::vector<std::string_view>& known_elsewhere = {});

}  // namespace qg
