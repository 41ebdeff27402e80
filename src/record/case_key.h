#pragma once
// What determines a result, and its hash: two runs with the same key would measure the same thing.
#include <string>

namespace qg {

struct CaseIdentity {
  std::string model_sha;     // hash of the original model, or "synth:SEED" for random weights of a shape
  std::string recipe_sha;    // hash of the quantization recipe with its calibration text; empty for fp16
  std::string weights, kv;   // words of core/format.h
  std::string workload;      // canonical description: name, lengths, rounds, seed, text hash
  std::string engine;        // EngineSpec::key()
  std::string engine_build;  // what of the build may change the result: kernels hash, or the engine's version
  std::string engine_flags;
  std::string target;       // card that the case is for
  std::string measured_on;  // card that runs it
};

// First 16 hexadecimal digits of SHA-256 over the canonical JSON (keys sorted, no spaces) of these and the schema
// version.
std::string case_key(const CaseIdentity& identity);

}  // namespace qg
