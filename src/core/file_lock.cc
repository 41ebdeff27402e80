#include "core/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/log.h"

namespace qg {

namespace fs = std::filesystem;

namespace {

int open_lock(const fs::path& file, ExitCode failure) {
  const int fd = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd >= 0) return fd;
  throw Error(std::string("cannot make the lock: ") + std::strerror(errno), file.string(), "check path and permissions",
              failure);
}

// False when somebody else has it.
bool lock(int fd, const fs::path& file) {
  while (flock(fd, LOCK_EX | LOCK_NB) != 0) {
    if (errno == EWOULDBLOCK) return false;
    if (errno == EINTR) continue;
    const std::string why = std::strerror(errno);
    close(fd);
    throw Error("cannot lock: " + why, file.string(), "put it on a file system that has locks", ExitCode::cannot_here);
  }
  return true;
}

fs::path lock_of(const fs::path& output) {
  fs::path path = output.lexically_normal();
  if (path.filename().empty()) path = path.parent_path();  // "out/" is "out"
  return path.string() + ".partial.lock";
}

}  // namespace

bool has_name(int fd, const fs::path& file) {
  struct stat opened {};
  struct stat named {};
  return fstat(fd, &opened) == 0 && stat(file.c_str(), &named) == 0 && opened.st_dev == named.st_dev &&
         opened.st_ino == named.st_ino;
}

FileLock::FileLock(const fs::path& file, const char* what) : fd_(open_lock(file, ExitCode::cannot_here)) {
  for (bool said = false; !lock(fd_, file);) {
    if (!said) info("waiting: another process is {}", what);
    said = true;
    try {
      stop_if_interrupted("another process goes on with it meanwhile");
    } catch (...) {
      close(fd_);
      throw;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(200));
  }
}

FileLock::~FileLock() {
  close(fd_);  // lets go of it
}

OutputLock::OutputLock(const fs::path& output) : file_(lock_of(output)) {
  std::error_code code;
  if (!file_.parent_path().empty()) fs::create_directories(file_.parent_path(), code);
  if (code)
    throw Error("folder cannot be created: " + code.message(), file_.parent_path().string(),
                "check path and permissions");
  while (!take(output)) {
  }
}

// False when the lock was taken on a file that its holder has removed meanwhile: the name is free, or another's.
bool OutputLock::take(const fs::path& output) {
  fd_ = open_lock(file_, ExitCode::wrong_input);
  if (!lock(fd_, file_)) {
    close(fd_);
    throw Error("another process is making it", output.string(), "wait for it to end, or give another name");
  }
  if (has_name(fd_, file_)) {
    struct stat mine {};
    if (fstat(fd_, &mine) == 0 && S_ISREG(mine.st_mode) && mine.st_size == 0) return true;
    close(fd_);
    throw Error("it is there already, and is no lock of a run", file_.string(), "move it away, or give another name");
  }
  close(fd_);
  return false;
}

OutputLock::~OutputLock() {
  unlink(file_.c_str());  // while it is held: who waits for this very file finds that its name is gone
  close(fd_);
}

}  // namespace qg
