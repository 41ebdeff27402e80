#pragma once
// A card's tuning table on disk. It holds for one card, library and set of kernels; whatever does not fit is measured
// again, so a file that is old, damaged or another card's costs time and nothing else.
#include <filesystem>
#include <string>

#include "kernels/linear/tuning.h"

namespace qg {

// What a table holds for.
struct TuningIdentity {
  std::string card;    // "NVIDIA H100 80GB HBM3"
  std::string family;  // of kernels: "sm90a"
  int multiprocessors = 0;
  int64_t library = 0;  // cuBLASLt's version
  std::string kernels;  // kernels_hash()
  bool operator==(const TuningIdentity&) const = default;
};

struct TuningRead {
  TuningTable table;
  std::string problem;  // why the table is empty though a file is there; empty otherwise
};

// .cache/quantgrid/tuning-CARD-FAMILY.json in the user's home folder; empty where there is none.
std::filesystem::path default_tuning_file(const TuningIdentity& identity);

// Never throws for what the file holds: every field is checked, and the first that is wrong is the problem.
TuningRead read_tuning(const std::filesystem::path& file, const TuningIdentity& identity);

// A file of any card, to be shown. Throws Error when it cannot be read or a field is wrong.
struct TuningFile {
  TuningIdentity measured_on;
  TuningTable table;
};
TuningFile read_any_tuning(const std::filesystem::path& file);

// The entries of `table` over those that the file has already (same product or layer and m), if it is of the same
// identity. Throws Error when the file cannot be written.
void write_tuning(const std::filesystem::path& file, const TuningIdentity& identity, const TuningTable& table);

// For people: each layer's routes by m, the times of all, and from where on another is taken.
std::string describe_tuning(const TuningTable& table);

}  // namespace qg
