#include "checkpoint/lineage.h"

#include "checkpoint/strict_json.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/json_text.h"

namespace qg {

std::string Lineage::recipe_hash() const {
  // SortedJson orders keys, so that the same recipe has one text.
  const SortedJson canonical = SortedJson::parse(json_text(recipe));
  return sha256_hex(json_text(canonical));
}

std::optional<Lineage> read_lineage(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / kLineageFile;
  if (!std::filesystem::exists(path)) return {};
  const Json json = read_strict_json(path);
  const JsonReader reader(json, path.string());
  Lineage lineage;
  lineage.base_model = reader.get_string("base_model", "");
  lineage.base_hash = reader.get_string("base_hash", "");
  if (reader.has("recipe")) {
    reader.get_object("recipe");  // throws when it is none
    lineage.recipe = reader.get("recipe");
  }
  lineage.calibration_hash = reader.get_string("calibration_hash", "");
  lineage.seed = static_cast<uint64_t>(reader.get_int("seed", 0));
  lineage.tool_version = reader.get_string("tool_version", "");
  lineage.tool_commit = reader.get_string("tool_commit", "");
  lineage.created = reader.get_string("created", "");
  return lineage;
}

void write_lineage(const std::filesystem::path& folder, const Lineage& lineage) {
  const Json json{{"base_model", lineage.base_model},
                  {"base_hash", lineage.base_hash},
                  {"recipe", lineage.recipe},
                  {"recipe_hash", lineage.recipe_hash()},
                  {"calibration_hash", lineage.calibration_hash},
                  {"seed", static_cast<int64_t>(lineage.seed)},
                  {"tool_version", lineage.tool_version},
                  {"tool_commit", lineage.tool_commit},
                  {"created", lineage.created}};
  write_file(folder / kLineageFile, json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n");
}

}  // namespace qg
