#pragma once
// The safetensors file format (https://github.com/huggingface/safetensors, "Format"): 8 bytes length of the header,
// little endian; the header, a JSON object; the tensors' bytes without a gap. Read strictly: a file that any reader
// could take for something else is refused.
#include <filesystem>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include "core/file.h"
#include "core/tensor.h"

namespace qg {

struct TensorEntry {
  std::string name;
  DType dtype = DType::f32;
  Shape shape;
  bool operator==(const TensorEntry&) const = default;
};

struct StoredTensor : TensorEntry {
  int64_t offset = 0;  // from the start of the file
  int64_t bytes = 0;
};

struct SafetensorsHeader {
  std::vector<StoredTensor> tensors;  // by offset
  std::map<std::string, std::string> metadata;
  int64_t data_begin = 0;  // offset of the first tensor's bytes
};

inline constexpr int64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit

// `file` holds at least the header of a file of `file_bytes`. Throws Error on anything that the format forbids: header
// too long, duplicate names, unknown dtype, shape and size that differ, overlap, gap, misalignment, bytes left over.
SafetensorsHeader parse_safetensors_header(std::span<const std::byte> file, int64_t file_bytes,
                                           const std::string& where);

// An open file, mapped. Tensors are views on the map and keep it alive.
class SafetensorsFile {
 public:
  explicit SafetensorsFile(std::filesystem::path path);

  const std::filesystem::path& path() const { return path_; }
  const std::vector<StoredTensor>& tensors() const { return header_.tensors; }
  const std::map<std::string, std::string>& metadata() const { return header_.metadata; }
  int64_t file_bytes() const { return static_cast<int64_t>(map_.size_bytes()); }
  const StoredTensor* find(const std::string& name) const;  // null when absent
  Tensor view(const StoredTensor& stored) const;
  void release_pages() const { map_.release_pages(); }

 private:
  std::filesystem::path path_;
  MappedFile map_;
  SafetensorsHeader header_;
  std::unordered_map<std::string, size_t> by_name_;
};

// Writes a file whose tensors are declared first and then written once each, in any order; only one needs to be in
// memory. In the file they lie by falling element size, then by name, as the reference writer has them: everything is
// aligned, and the bytes do not depend on the order of writing.
class SafetensorsWriter {
 public:
  // Metadata {"format": "pt"} is what transformers asks for.
  SafetensorsWriter(const std::filesystem::path& path, std::vector<TensorEntry> entries,
                    std::map<std::string, std::string> metadata = {{"format", "pt"}});

  bool declared(const std::string& name) const { return places_.contains(name); }
  void write(const std::string& name, const Tensor& tensor);  // dtype and shape must be the declared ones
  std::vector<std::string> missing() const;                   // declared, not written yet
  int64_t total_bytes() const { return total_bytes_; }
  void finish(bool durable = true);  // throws Error when a tensor is missing; durable: see AtomicFile::commit

 private:
  struct Place {
    TensorEntry entry;
    int64_t offset = 0;
    bool written = false;
  };
  std::filesystem::path path_;
  std::unordered_map<std::string, Place> places_;
  int64_t total_bytes_ = 0;
  std::optional<AtomicFile> file_;
};

}  // namespace qg
