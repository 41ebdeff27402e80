#pragma once
// Small pieces of HTML that every part of the page is made of. All text goes through escaped().
#include <string>
#include <string_view>

#include "core/json.h"

namespace qg {

std::string escaped(std::string_view text);      // for text and for attribute values in double quotes
std::string json_for_script(const Json& value);  // cannot end the <script> that it stands in

// <tag class="classes">text</tag>, the text escaped.
std::string element(std::string_view tag, std::string_view classes, std::string_view text);
// The same around HTML that is already made.
std::string wrapped(std::string_view tag, std::string_view classes, std::string_view html);

}  // namespace qg
