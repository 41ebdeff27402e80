#pragma once
// Where a checkpoint comes from: written beside the weights as `quantgrid_lineage.json`, shown by `inspect`.
#include <filesystem>
#include <optional>
#include <string>

#include "core/json.h"

namespace qg {

struct Lineage {
  std::string base_model;  // folder name of the source model
  std::string base_hash;   // sha256 over the source's tensors
  Json recipe =
      Json::object();  // everything that determined the bytes: format, group size, alphas, calibration settings
  std::string calibration_hash;  // sha256 of the calibration text
  uint64_t seed = 0;
  std::string tool_version, tool_commit;
  std::string created;  // ISO 8601, UTC

  std::string recipe_hash() const;  // sha256 of the recipe's canonical JSON
};

inline constexpr const char* kLineageFile = "quantgrid_lineage.json";
std::optional<Lineage> read_lineage(const std::filesystem::path& folder);
void write_lineage(const std::filesystem::path& folder, const Lineage& lineage);

}  // namespace qg
