#pragma once
// The card that another engine runs on, asked of nvidia-smi as an emitted script asks it.
#include <cstdint>
#include <filesystem>
#include <string>

namespace qg {

struct CardHere {
  std::string id;    // row of grid/cards.h: "a100"
  std::string name;  // "NVIDIA A100-SXM4-80GB"
  std::string driver;
  int cc_major = 0, cc_minor = 0;
  int64_t memory_bytes = 0;
};

// gpu: index or UUID. Throws Error (ExitCode::cannot_here): no driver, no such card, a board that is no row.
CardHere card_here(const std::string& gpu, const std::filesystem::path& scratch);

}  // namespace qg
