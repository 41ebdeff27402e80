#include "record/case_key.h"

#include <gtest/gtest.h>

namespace qg {
namespace {

const CaseIdentity kIdentity{.model_sha = "11",
                             .recipe_sha = "22",
                             .weights = "int4_awq",
                             .kv = "fp8",
                             .workload = "decode/b8 isl=128 osl=256",
                             .engine = "native",
                             .engine_build = "33",
                             .engine_flags = "--deterministic",
                             .target = "a10",
                             .measured_on = "h100"};

// python3 -c 'import
// json,hashlib;print(hashlib.sha256(json.dumps({"engine":"native","engine_build":"33","engine_flags":
// "--deterministic","kv":"fp8","measured_on":"h100","model_sha":"11","recipe_sha":"22","schema_version":1,"target":"a10",
// "weights":"int4_awq","workload":"decode/b8 isl=128 osl=256"},sort_keys=True,separators=(",",":")).encode())
// .hexdigest()[:16])'
TEST(CaseKey, IsTheHashOfCanonicalJson) {
  EXPECT_EQ(case_key(kIdentity), "4ce8c1f930fd8f0a");
}

TEST(CaseKey, EveryPartMatters) {
  const auto differs = [](auto member) {
    CaseIdentity other = kIdentity;
    other.*member += "x";
    return case_key(other) != case_key(kIdentity);
  };
  for (auto member : {&CaseIdentity::model_sha, &CaseIdentity::recipe_sha, &CaseIdentity::weights, &CaseIdentity::kv,
                      &CaseIdentity::workload, &CaseIdentity::engine, &CaseIdentity::engine_build,
                      &CaseIdentity::engine_flags, &CaseIdentity::target, &CaseIdentity::measured_on})
    EXPECT_TRUE(differs(member));
}

}  // namespace
}  // namespace qg
