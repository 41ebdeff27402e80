#include "core/file_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <cstring>
#include <thread>

#include "core/error.h"
#include "core/interrupt.h"
#include "core/log.h"

namespace qg {

FileLock::FileLock(const std::filesystem::path& file, const char* what) {
  fd_ = open(file.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd_ < 0)
    throw Error(std::string("cannot make the lock: ") + std::strerror(errno), file.string(), "", ExitCode::cannot_here);
  for (bool said = false; flock(fd_, LOCK_EX | LOCK_NB) != 0;) {
    if (errno != EWOULDBLOCK && errno != EINTR) {
      const std::string why = std::strerror(errno);
      close(fd_);
      throw Error("cannot lock: " + why, file.string(), "put it on a file system that has locks",
                  ExitCode::cannot_here);
    }
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

}  // namespace qg
