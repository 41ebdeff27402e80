#pragma once
// A verb of the command line is one file: it declares its flags and leaves one action to be called after parsing.
#include <CLI/CLI.hpp>
#include <functional>
#include <string>
#include <vector>

#include "core/error.h"

namespace qg {

struct Verb {
  int order;  // place in --help, in the order in which a person meets them
  const char* name;
  const char* summary;
  const char* example;  // shown under --help
  // Declares flags on `command` and returns the action; what the flags fill must live as long as the action (capture a
  // shared_ptr). The action returns the exit code and reports trouble by throwing Error.
  std::function<std::function<ExitCode()>(CLI::App& command)> declare;
};

// Put one of these at namespace scope in the verb's file.
class RegisterVerb {
 public:
  explicit RegisterVerb(Verb verb);
};

const std::vector<Verb>& registered_verbs();  // sorted by order

}  // namespace qg
