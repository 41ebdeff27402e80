#include "core/interrupt.h"

#include <csignal>

#include "core/error.h"

namespace qg {
namespace {
volatile std::sig_atomic_t asked = 0;
}

void watch_interrupts() {
  struct sigaction action {};
  action.sa_handler = [](int) { asked = 1; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);  // a second signal ends the program at once
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
}

bool interrupted() {
  return asked != 0;
}

void stop_if_interrupted(const char* what) {
  if (interrupted())
    throw Error("interrupted", "", std::string("run the same command again: ") + what, ExitCode::interrupted);
}

}  // namespace qg
