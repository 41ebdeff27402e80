#pragma once
// The guard of process.h: what runs between fork and exec. Only system calls and memory that is there already: we fork
// from a program with threads, whose locks may be held.
#include <cstdint>

namespace qg {

struct GuardOrder {
  const char* program;  // full path
  char* const* argv;
  char* const* environment;
  int life;    // readable or closed: end everything
  int status;  // a GuardReport is written here, once, when everything is gone
  int output;  // becomes standard output and error
  int grace_ms;
};

struct GuardReport {
  enum Kind : int32_t { exited, signalled, not_started, ended_by_order } kind;
  int32_t value;  // exit code, signal, errno
};

// Never returns: the process is the guard from here on.
[[noreturn]] void run_guard(const GuardOrder& order);

}  // namespace qg
