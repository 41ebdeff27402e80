#pragma once
// Files: whole reads with a limit, read-only maps, and writes that are never seen half done.
#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>

namespace qg {

// The whole file; throws Error when it cannot be read or is larger than max_bytes.
std::string read_file(const std::filesystem::path& path, int64_t max_bytes = int64_t{1} << 30);

// Writes `text` under a temporary name beside `path`, syncs it and renames it over `path`; a pipe or a device
// (/dev/stdout) is written to as it is.
void write_file(const std::filesystem::path& path, std::string_view text);

// A file that appears under its name only when commit() succeeds; otherwise the temporary is removed. A link stays, and
// the file behind it is replaced.
class AtomicFile {
 public:
  // Throws Error when `path` is something else than a regular file, which would be gone afterwards.
  explicit AtomicFile(const std::filesystem::path& path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void write(const void* data, size_t bytes);  // appends; throws Error (disk full names the path and the fix)
  void write_at(int64_t offset, const void* data, size_t bytes);  // anywhere; gaps read as zero
  // Takes the disk space now, where the file system can; throws Error when it is not there. The file's size is `bytes`
  // afterwards: all of it must be written.
  void reserve(int64_t bytes);
  int64_t written_bytes() const { return written_; }
  // fsync, rename, fsync of the folder. Not durable: the rename alone, for files that are checked before they are used
  // again.
  void commit(bool durable = true);

 private:
  std::filesystem::path path_, temporary_;
  int fd_ = -1;
  int64_t written_ = 0;
};

// A folder that appears under its name only when commit() succeeds: files are written into path() ("NAME.partial"),
// which is renamed at the end. A partial folder of an earlier, interrupted run is kept, so that work can go on in it.
class AtomicFolder {
 public:
  // Throws Error when `final_path` exists and is not an empty folder.
  explicit AtomicFolder(const std::filesystem::path& final_path);
  const std::filesystem::path& path() const { return partial_; }
  void commit();  // throws Error when something else has the name by now

 private:
  void require_free() const;

  std::filesystem::path final_, partial_;
};

// Read-only memory map of a whole file. Copies share the map.
class MappedFile {
 public:
  explicit MappedFile(const std::filesystem::path& path);  // throws Error
  const std::byte* data() const { return data_; }
  size_t size_bytes() const { return bytes_; }
  const std::shared_ptr<const void>& owner() const { return owner_; }
  // Lets go of the physical pages; they come back from the page cache when they are read again. For callers that go
  // through a file larger than the memory that they may take.
  void release_pages() const;

 private:
  std::shared_ptr<const void> owner_;
  const std::byte* data_ = nullptr;
  size_t bytes_ = 0;
};

}  // namespace qg
