#include "record/case_key.h"

#include "core/hash.h"
#include "core/json_text.h"
#include "record/record.h"

namespace qg {

std::string case_key(const CaseIdentity& identity) {
  // SortedJson keeps its keys sorted; on one line there are no spaces.
  const SortedJson canonical{
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
  return sha256_hex(json_text(canonical)).substr(0, 16);
}

}  // namespace qg
