#pragma once
// The same checks of a checkpoint folder that an emitted script makes (script_prologue.cc): the engine's layout, and
// the cache type that it fixes.
#include <string>

#include "engines/commands.h"

namespace qg {

// Why the case must not run on this folder; empty when it may.
std::string folder_problem(const EngineCase& e);

// A word as bash's printf %q writes it, for the file beside a built engine that says which command built it: a script
// and `run` go on with each other's builds.
std::string printf_q(const std::string& word);

}  // namespace qg
