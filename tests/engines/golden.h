#pragma once
// The 45-case grid as a person in the repository's folder sees it, and texts compared with files under tests/golden.
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>

#include "core/file.h"
#include "grid/grid.h"
#include "grid/plan.h"

namespace qg {

inline const Grid& plan_of_45() {
  // Parsed under its relative name, so that no path of this machine gets into a script.
  static const Grid kGrid =
      parse_grid(read_file(std::filesystem::path(QG_SOURCE_DIR) / "grids/trt-llm-45.toml"), "grids/trt-llm-45.toml");
  return kGrid;
}

inline PlanOptions options_for(EngineId engine, Profile profile = Profile::quick) {
  PlanOptions options;
  options.engine = engine;
  options.profile = profile;
  options.machine.memory_bytes = 8'000'000'000;
  return options;
}

// QG_UPDATE_GOLDEN=1 writes the file instead; the difference is then read in the commit.
inline void expect_golden(const std::string& name, const std::string& text) {
  const std::filesystem::path path = std::filesystem::path(QG_SOURCE_DIR) / "tests/golden/engines" / name;
  if (std::getenv("QG_UPDATE_GOLDEN")) {
    std::ofstream(path, std::ios::binary) << text;
    return;
  }
  ASSERT_TRUE(std::filesystem::exists(path)) << path;
  EXPECT_EQ(read_file(path), text) << name;
}

}  // namespace qg
