#pragma once
#include <filesystem>
#include <vector>

namespace qg {

// Makes a folder and those above it; at the end those that it made and that are still empty go away again. For work
// that may be refused before it has written anything. A folder that cannot be made is noticed by who writes into it.
class NewFolder {
 public:
  explicit NewFolder(const std::filesystem::path& path);
  ~NewFolder();
  NewFolder(const NewFolder&) = delete;
  NewFolder& operator=(const NewFolder&) = delete;

 private:
  std::vector<std::filesystem::path> made_;  // outermost first
};

}  // namespace qg
