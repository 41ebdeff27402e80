#include "core/log.h"

#include <spdlog/sinks/stdout_color_sinks.h>

namespace qg {

void set_up_log(Verbosity verbosity) {
  auto logger = spdlog::stderr_color_mt("quantgrid");
  logger->set_pattern("%^%l%$: %v");
  logger->set_level(verbosity == Verbosity::quiet     ? spdlog::level::warn
                    : verbosity == Verbosity::verbose ? spdlog::level::debug
                                                      : spdlog::level::info);
  spdlog::set_default_logger(logger);
}

}  // namespace qg
