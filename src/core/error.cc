#include "core/error.h"

#include <utility>

namespace qg {
namespace {

std::string join(const std::string& what, const std::string& where, const std::string& fix) {
  std::string text = where.empty() ? what : where + ": " + what;
  if (!fix.empty()) text += "\n  to do: " + fix;
  return text;
}

}  // namespace

Error::Error(std::string what, std::string where, std::string fix, ExitCode code)
    : std::runtime_error(join(what, where, fix)),
      problem_(std::move(what)),
      where_(std::move(where)),
      fix_(std::move(fix)),
      code_(code) {}

}  // namespace qg
