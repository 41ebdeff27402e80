#include "core/file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <system_error>

#include "core/error.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

[[noreturn]] void fail(const std::string& what, const fs::path& path) {
  const int code = errno;
  std::string fix;
  if (code == ENOSPC || code == EDQUOT) fix = "free disk space, or write to another disk";
  if (code == EFBIG) fix = "raise the limit on the size of files (ulimit -f), or write to another disk";
  if (code == ENOENT || code == ENOTDIR) fix = "check the path";
  if (code == EACCES || code == EPERM || code == EROFS) fix = "check the permissions";
  throw Error(what + ": " + std::strerror(code), path.string(), fix);
}

int open_to_read(const fs::path& path) {
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd < 0) fail("cannot be opened", path);
  return fd;
}

struct Closer {
  int fd;
  ~Closer() { ::close(fd); }
};

int64_t regular_size(int fd, const fs::path& path) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) fail("cannot be examined", path);
  if (!S_ISREG(status.st_mode)) throw Error("is not a regular file", path.string());
  return status.st_size;
}

void sync_folder(const fs::path& folder) {
  const int fd = ::open(folder.empty() ? "." : folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;  // best effort: the rename itself is already done
  ::fsync(fd);
  ::close(fd);
}

// The file behind a link, so that writing replaces that file and the link stays. A link to nothing is itself.
fs::path behind_links(const fs::path& path) {
  std::error_code code;
  if (!fs::is_symlink(path, code)) return path;
  const fs::path target = fs::canonical(path, code);
  return code ? path : target;
}

void write_all(int fd, const void* data, size_t bytes, const fs::path& path) {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t put = ::write(fd, from, bytes);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail("cannot be written", path);
    from += put;
    bytes -= static_cast<size_t>(put);
  }
}

// A pipe or a device, such as /dev/stdout or /dev/null: nothing may be renamed over it.
bool is_stream(const fs::path& path) {
  std::error_code code;
  const fs::file_status status = fs::status(path, code);
  return fs::is_character_file(status) || fs::is_fifo(status);
}

void write_stream(const fs::path& path, std::string_view text) {
  const Closer file{::open(path.c_str(), O_WRONLY | O_CLOEXEC)};
  if (file.fd < 0) fail("cannot be opened", path);
  write_all(file.fd, text.data(), text.size(), path);
}

}  // namespace

std::string read_file(const fs::path& path, int64_t max_bytes) {
  const Closer file{open_to_read(path)};
  const int64_t size = regular_size(file.fd, path);
  if (size > max_bytes)
    throw Error("is " + std::to_string(size) + " bytes, more than the " + std::to_string(max_bytes) + " allowed",
                path.string());
  std::string text(static_cast<size_t>(size), '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = ::read(file.fd, text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail("cannot be read", path);
    if (got == 0) break;
    done += static_cast<size_t>(got);
  }
  text.resize(done);
  return text;
}

void write_file(const fs::path& path, std::string_view text) {
  if (is_stream(path)) return write_stream(path, text);
  AtomicFile file(path);
  file.write(text.data(), text.size());
  file.commit();
}

AtomicFile::AtomicFile(const fs::path& path)
    : path_(behind_links(path)), temporary_(path_.string() + ".tmp." + std::to_string(::getpid())) {
  std::error_code code;
  if (fs::exists(path_, code) && !fs::is_regular_file(path_, code))
    throw Error(fs::is_directory(path_, code) ? "is a folder" : "is a device, a pipe or a socket, no file",
                path.string(), "give the name of a file");
  fd_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd_ < 0) fail("cannot be created", path);
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  ::close(fd_);
  ::unlink(temporary_.c_str());
}

void AtomicFile::write(const void* data, size_t bytes) {
  write_all(fd_, data, bytes, path_);
  written_ += static_cast<int64_t>(bytes);
}

void AtomicFile::write_at(int64_t offset, const void* data, size_t bytes) {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t put = ::pwrite(fd_, from, bytes, offset);
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) fail("cannot be written", path_);
    from += put;
    offset += put;
    bytes -= static_cast<size_t>(put);
    written_ += put;
  }
}

void AtomicFile::reserve(int64_t bytes) {
  if (bytes <= 0 || ::fallocate(fd_, 0, 0, bytes) == 0) return;
  if (errno == ENOSPC || errno == EDQUOT || errno == EFBIG)
    fail("needs " + std::to_string(bytes) + " bytes, which cannot be had", path_);
}

void AtomicFile::commit(bool durable) {
  if (durable && ::fsync(fd_) != 0) fail("cannot be written", path_);
  const int fd = fd_;
  fd_ = -1;
  if (::close(fd) != 0 || ::rename(temporary_.c_str(), path_.c_str()) != 0) {
    const int code = errno;
    ::unlink(temporary_.c_str());
    errno = code;
    fail("cannot be written", path_);
  }
  if (durable) sync_folder(path_.parent_path());
}

AtomicFolder::AtomicFolder(const fs::path& final_path) : final_(final_path.lexically_normal()), partial_() {
  if (final_.empty()) throw Error("the name of the folder to make is empty", "", "give it a name");
  if (final_.filename().empty()) final_ = final_.parent_path();  // "out/" is "out"
  partial_ = final_.string() + ".partial";
  require_free();
  std::error_code code;
  fs::create_directories(partial_, code);
  if (code) throw Error("folder cannot be created: " + code.message(), final_.string(), "check path and permissions");
}

void AtomicFolder::require_free() const {
  std::error_code code;
  if (fs::exists(final_, code) && !(fs::is_directory(final_, code) && fs::is_empty(final_, code)))
    throw Error("exists already", final_.string(), "choose another name, or remove it first");
}

void AtomicFolder::commit() {
  require_free();
  std::error_code code;
  if (fs::is_symlink(final_, code)) fs::remove(final_, code);  // to an empty folder
  fs::rename(partial_, final_, code);                          // onto an empty folder, never onto one with files
  if (code) throw Error("folder cannot be renamed: " + code.message(), partial_.string());
  sync_folder(final_.parent_path());
}

MappedFile::MappedFile(const fs::path& path) {
  const Closer file{open_to_read(path)};
  bytes_ = static_cast<size_t>(regular_size(file.fd, path));
  if (bytes_ == 0) return;
  void* map = ::mmap(nullptr, bytes_, PROT_READ, MAP_PRIVATE, file.fd, 0);
  if (map == MAP_FAILED) fail("cannot be mapped", path);
  data_ = static_cast<const std::byte*>(map);
  owner_ = std::shared_ptr<const void>(map, [bytes = bytes_](const void* p) { ::munmap(const_cast<void*>(p), bytes); });
}

void MappedFile::release_pages() const {
  // A failure costs memory, nothing else.
  if (bytes_ > 0) (void)::madvise(const_cast<std::byte*>(data_), bytes_, MADV_DONTNEED);
}

}  // namespace qg
