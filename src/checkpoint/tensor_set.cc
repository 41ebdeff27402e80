#include "checkpoint/tensor_set.h"

#include <algorithm>
#include <map>
#include <set>

#include "checkpoint/strict_json.h"
#include "core/error.h"
#include "core/hash.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr int64_t kMaxIndexBytes = int64_t{64} << 20;

// Shard names come from a file that may be hostile: nothing outside the folder is opened.
void check_shard_name(const std::string& name, const std::string& where) {
  const bool plain = !name.empty() && name != "." && name != ".." && name.find('/') == std::string::npos &&
                     name.find('\\') == std::string::npos && name.find('\0') == std::string::npos;
  if (!plain || !name.ends_with(".safetensors"))
    throw Error("shard \"" + name.substr(0, 200) + "\" is not the plain name of a .safetensors file", where,
                "shards must lie beside the index");
}

// Tensor name → shard name.
std::map<std::string, std::string> read_weight_map(const fs::path& index) {
  const std::string where = index.string();
  const std::string text = read_file(index, kMaxIndexBytes);
  check_strict_json(text, where);
  const nlohmann::json json = nlohmann::json::parse(text);  // by std::map: an ordered one is quadratic in its keys
  if (!json.is_object() || !json.contains("weight_map") || !json["weight_map"].is_object())
    throw Error("key \"weight_map\" is missing or not an object", where);
  std::map<std::string, std::string> map;
  for (const auto& [name, shard] : json["weight_map"].items()) {
    if (!shard.is_string()) throw Error("\"weight_map\" of tensor " + name + " should be a file name", where);
    check_shard_name(shard.get<std::string>(), where);
    map[name] = shard.get<std::string>();
  }
  if (map.empty()) throw Error("\"weight_map\" is empty", where);
  return map;
}

}  // namespace

TensorSet TensorSet::open_file(const fs::path& path) {
  TensorSet set;
  set.add(SafetensorsFile(path));
  set.sort_names();
  return set;
}

TensorSet TensorSet::open_folder(const fs::path& folder) {
  if (fs::exists(folder / kSingleFile)) return open_file(folder / kSingleFile);
  const fs::path index = folder / kIndexFile;
  if (!fs::exists(index))
    throw Error("holds no model.safetensors and no model.safetensors.index.json", folder.string(),
                "fetch the model's safetensors files");
  const std::map<std::string, std::string> weight_map = read_weight_map(index);
  std::set<std::string> shards;
  for (const auto& [name, shard] : weight_map) shards.insert(shard);

  TensorSet set;
  for (const std::string& shard : shards) {
    if (!fs::exists(folder / shard))
      throw Error("shard " + shard + " of the index is not there", folder.string(), "fetch the missing file");
    set.add(SafetensorsFile(folder / shard));
  }
  set.sort_names();
  for (const auto& [name, shard] : weight_map) {
    const auto place = set.places_.find(name);
    if (place == set.places_.end() || set.files_[place->second.file].path().filename() != shard)
      throw Error("index says that tensor " + name + " lies in " + shard + ", but it does not", index.string(),
                  "index and shards do not belong together: fetch them again");
  }
  for (const std::string& name : set.names_)
    if (!weight_map.contains(name))
      throw Error("tensor " + name + " lies in a shard but not in the index", index.string(),
                  "index and shards do not belong together: fetch them again");
  return set;
}

void TensorSet::add_file(const fs::path& path, const std::string& prefix) {
  add(SafetensorsFile(path), prefix);
  sort_names();
}

void TensorSet::add(SafetensorsFile file, const std::string& prefix) {
  for (size_t i = 0; i < file.tensors().size(); ++i) {
    const std::string name = prefix + file.tensors()[i].name;
    if (!places_.emplace(name, Place{files_.size(), i}).second)
      throw Error("tensor " + name + " lies in two shards", file.path().string(),
                  "the folder mixes files of two models: fetch it again");
    names_.push_back(name);
  }
  files_.push_back(std::move(file));
}

void TensorSet::sort_names() {
  std::sort(names_.begin(), names_.end());
}

const StoredTensor* TensorSet::find(const std::string& name) const {
  const auto place = places_.find(name);
  return place == places_.end() ? nullptr : &files_[place->second.file].tensors()[place->second.tensor];
}

Tensor TensorSet::get(const std::string& name) const {
  const auto place = places_.find(name);
  if (place == places_.end()) throw Error("tensor " + name + " is missing", files_.front().path().string());
  const SafetensorsFile& file = files_[place->second.file];
  return file.view(file.tensors()[place->second.tensor]);
}

std::string TensorSet::where(const std::string& name) const {
  const auto place = places_.find(name);
  const size_t file = place == places_.end() ? 0 : place->second.file;
  return files_[file].path().string() + ", tensor " + name;
}

int64_t TensorSet::file_bytes() const {
  int64_t bytes = 0;
  for (const SafetensorsFile& file : files_) bytes += file.file_bytes();
  return bytes;
}

std::string TensorSet::hash() const {
  constexpr size_t kReleaseBytes = size_t{256} << 20;
  Sha256 hash;
  size_t resident_bytes = 0;
  for (const std::string& name : names_) {
    const Tensor tensor = get(name);
    hash.update(name + " " + std::string(to_string(tensor.dtype)) + " " + to_string(tensor.shape) + "\n");
    hash.update(tensor.data, tensor.bytes());
    resident_bytes += tensor.bytes();
    if (resident_bytes < kReleaseBytes) continue;
    release_pages();
    resident_bytes = 0;
  }
  return hash.hex();
}

void TensorSet::release_pages() const {
  for (const SafetensorsFile& file : files_) file.release_pages();
}

}  // namespace qg
