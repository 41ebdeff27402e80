#pragma once
// The SQLite store that `merge` writes: tables runs, cases (attempts) and measurements, with the columns of
// docs/schema.md.
#include <filesystem>

#include "record/results.h"

namespace qg {

void write_store(const std::filesystem::path& file, const Results& results);  // appears whole or not at all
std::vector<JournalRun> read_store(const std::filesystem::path& file);        // throws Error when it is not one of ours
bool is_store(const std::filesystem::path& file);                             // by the first bytes

}  // namespace qg
