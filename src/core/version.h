#pragma once
#include <string>

namespace qg {

std::string version();        // "0.1.0"
std::string build_commit();   // short hash of the commit, "+dirty" behind it when the tree was changed
std::string kernels_hash();   // over src/kernels and src/runtime (scripts/gpu_hash.sh): equal ones ran the same kernels
std::string build_options();  // "g++ 12.2.0, Release, cpu"

}  // namespace qg
