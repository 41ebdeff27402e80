#include "record/case_key.h"

#include <nlohmann/json.hpp>

#include "core/hash.h"
#include "record/record.h"

namespace qg {

std::string case_key(const CaseIdentity& identity) {
  // nlohmann::json (not the ordered kind) keeps its keys sorted, and dump() without arguments writes no spaces.
  const nlohmann::json canonical{
      {"engine", identity.engine},
      {"engine_build", identity.engine_build},
      {"engine_flags", identity.engine_flags},
      {"kv", identity.kv},
      {"measured_on", identity.measured_on},
      {"model_sha", identity.model_sha},
      {"recipe_sha", identity.recipe_sha},
      {"schema_version", kSchemaVersion},
      {"target", identity.target},
      {"weights", identity.weights},
      {"workload", identity.workload},
  };
  return sha256_hex(canonical.dump()).substr(0, 16);
}

}  // namespace qg
