#pragma once
// All tensors of a model folder: one safetensors file, or several with an index that says which tensor lies where.
#include <filesystem>
#include <string>
#include <unordered_map>
#include <vector>

#include "checkpoint/safetensors.h"

namespace qg {

class TensorSet {
 public:
  // One file.
  static TensorSet open_file(const std::filesystem::path& path);
  // `model.safetensors` of the folder, or the shards of `model.safetensors.index.json`; throws Error when there is
  // neither, when a shard's name is not a plain file name, or when index and shards disagree.
  static TensorSet open_folder(const std::filesystem::path& folder);

  // Adds a file; its tensors are found under `prefix` + their names.
  void add_file(const std::filesystem::path& path, const std::string& prefix);

  const StoredTensor* find(const std::string& name) const;          // null when absent
  Tensor get(const std::string& name) const;                        // a view on the map; throws Error when absent
  const std::vector<std::string>& names() const { return names_; }  // sorted
  std::string where(const std::string& name) const;  // "folder/model.safetensors, tensor name", for errors
  int64_t file_bytes() const;                        // of all files
  std::string hash() const;                          // sha256 over names, dtypes, shapes and bytes, by name
  void release_pages() const;                        // memory of what was read; views stay valid (MappedFile)

 private:
  void add(SafetensorsFile file, const std::string& prefix = {});
  void sort_names();

  struct Place {
    size_t file, tensor;
  };
  std::vector<SafetensorsFile> files_;
  std::unordered_map<std::string, Place> places_;
  std::vector<std::string> names_;
};

}  // namespace qg
