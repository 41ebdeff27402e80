#pragma once
#include <string>

namespace qg {

std::string utc_now();  // "2026-11-22T16:40:00Z"

}  // namespace qg
