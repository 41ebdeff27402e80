#pragma once
// Messages to standard error through spdlog; standard output belongs to results.
#define SPDLOG_FMT_EXTERNAL 1
#include <fmt/format.h>
#include <spdlog/spdlog.h>

namespace qg {

enum class Verbosity { quiet, normal, verbose };
void set_up_log(Verbosity verbosity);  // once, from main

using spdlog::debug;
using spdlog::info;
using spdlog::warn;

}  // namespace qg
