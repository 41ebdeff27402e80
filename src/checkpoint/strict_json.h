#pragma once
// nlohmann-json keeps the last of two equal keys and says nothing: a file that two readers understand differently.
// Files that describe weights are refused instead.
#include <filesystem>
#include <string>
#include <string_view>

#include "core/json.h"

namespace qg {

// Throws Error when the text is not JSON, is nested deeper than 64, or names a key twice in one object.
void check_strict_json(std::string_view text, const std::string& where);

inline constexpr int64_t kMaxConfigBytes = int64_t{16} << 20;

// A configuration file of a model folder, checked as above.
Json read_strict_json(const std::filesystem::path& path, int64_t max_bytes = kMaxConfigBytes);

}  // namespace qg
