#pragma once
// One process at a time, also on several machines that share the file system (flock, which NFS carries over).
#include <filesystem>

namespace qg {

class FileLock {
 public:
  // Waits until nobody else has it; makes the file, which stays. `what` is said once when it has to wait. Throws Error:
  // the file cannot be made, a stop was asked for (exit code 75).
  FileLock(const std::filesystem::path& file, const char* what);
  ~FileLock();
  FileLock(const FileLock&) = delete;
  FileLock& operator=(const FileLock&) = delete;

 private:
  int fd_ = -1;
};

}  // namespace qg
