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

// Whether the open file is the one that has this name. Who has locked a file that its holder removed meanwhile holds a
// lock that nobody else will meet.
bool has_name(int fd, const std::filesystem::path& file);

// Of an output that one run at a time may make: who comes second does not wait. The file, "OUTPUT.partial.lock", goes
// with the lock; one that a killed run left there locks nothing.
class OutputLock {
 public:
  // Makes the folders that the output lies in. Throws Error: another process is making it, the file cannot be made.
  explicit OutputLock(const std::filesystem::path& output);
  ~OutputLock();
  OutputLock(const OutputLock&) = delete;
  OutputLock& operator=(const OutputLock&) = delete;

 private:
  bool take(const std::filesystem::path& output);

  std::filesystem::path file_;
  int fd_ = -1;
};

}  // namespace qg
