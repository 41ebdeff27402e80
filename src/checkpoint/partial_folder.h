#pragma once
// A checkpoint folder in the making, by one process at a time. Unlike AtomicFolder alone, an earlier run's leftovers
// are removed first (a checkpoint is written in one go, and its files must be of one run), and so is what an error
// leaves behind.
#include "core/error.h"
#include "core/file.h"
#include "core/file_lock.h"

namespace qg {

class PartialFolder {
 public:
  explicit PartialFolder(const std::filesystem::path& final_path) : lock_(final_path), folder_(final_path) { clear(); }
  ~PartialFolder() {
    if (committed_) return;
    std::error_code code;
    std::filesystem::remove_all(folder_.path(), code);
  }
  PartialFolder(const PartialFolder&) = delete;
  PartialFolder& operator=(const PartialFolder&) = delete;

  const std::filesystem::path& path() const { return folder_.path(); }
  void commit() {
    folder_.commit();
    committed_ = true;
  }

 private:
  // Checkpoints have no folders in them: what has is not an earlier run's.
  void clear() {
    std::error_code code;
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path(), code))
      if (entry.is_directory())
        throw Error("it is there already, and is no checkpoint in the making", folder_.path().string(),
                    "move it away, or give another name");
    for (const auto& entry : std::filesystem::directory_iterator(folder_.path(), code))
      std::filesystem::remove_all(entry.path(), code);
  }

  OutputLock lock_;  // before folder_: until nothing is left of it
  AtomicFolder folder_;
  bool committed_ = false;
};

}  // namespace qg
