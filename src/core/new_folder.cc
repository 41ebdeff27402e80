#include "core/new_folder.h"

#include <unistd.h>

#include <system_error>

namespace qg {

NewFolder::NewFolder(const std::filesystem::path& path) {
  std::filesystem::path folder;
  for (const std::filesystem::path& part : path) {
    folder /= part;
    std::error_code code;
    if (!part.empty() && std::filesystem::create_directory(folder, code)) made_.push_back(folder);
  }
}

NewFolder::~NewFolder() {
  for (; !made_.empty(); made_.pop_back())
    if (rmdir(made_.back().c_str()) != 0) return;  // it is not empty
}

}  // namespace qg
