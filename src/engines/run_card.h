#pragma once
// The card that another engine runs on, asked of nvidia-smi as an emitted script asks it.
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

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

// The card when none is named: the first that CUDA_VISIBLE_DEVICES allows, as users and schedulers set it, else "0".
std::string default_gpu();

// What makes an engine run on that very card: CUDA alone counts the fastest card first, nvidia-smi by the place on the
// bus.
std::vector<std::string> card_environment(const std::string& gpu);

}  // namespace qg
