#pragma once
// The machine and the build that made a run: the first line of each run in a journal. No host name, user name or path.
#include <cstdint>
#include <optional>
#include <string>

#include "core/json.h"
#include "record/record.h"

namespace qg {

struct Environment {
  int64_t schema_version = kSchemaVersion;
  std::string run_id;      // UUIDv7 of one invocation
  std::string started_at;  // UTC
  std::string machine;     // a name for people: the GPU's, or "CPU, 2 cores"
  std::string cpu;
  std::optional<int64_t> cores, memory_bytes;
  std::string os, virt;
  std::string gpu;  // product name; empty without one
  std::optional<int64_t> gpu_count, gpu_memory_bytes, pcie_gen, pcie_width;
  std::string sm, driver, cuda, vbios, ecc, mig;
  std::string version, commit, build;
  std::string kernels_hash;  // over src/kernels and src/runtime
  Json more = Json::object();
  bool operator==(const Environment&) const = default;
};

// This machine's CPU, cores, memory, system and this build; run_id and started_at are new. Whoever drives a GPU adds
// its fields.
Environment this_environment();

std::string new_run_id();  // UUIDv7: sorts by time

// `text` with each absolute path cut to its last component: journals are published.
std::string without_host_paths(std::string_view text);

}  // namespace qg
