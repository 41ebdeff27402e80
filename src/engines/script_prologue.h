#pragma once
// What an emitted script begins and ends with: the shell functions that its cases call.
#include <filesystem>
#include <string>

#include "grid/cards.h"
#include "grid/engines.h"

namespace qg {

std::string script_prologue(EngineId engine, const Card& card, const std::filesystem::path& results);
std::string script_epilogue();

}  // namespace qg
