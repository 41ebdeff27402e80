#pragma once
// JSON as text that always comes out.
#include <string>

#include "core/json.h"

namespace qg {

// On one line, or with an indent on several. A string that is not UTF-8, such as a path with a Latin-1 name, does not
// throw: what is wrong in it comes out as U+FFFD.
std::string json_text(const Json& json, int indent = -1);
std::string json_text(const SortedJson& json, int indent = -1);

}  // namespace qg
