#include "quantize/layer_journal.h"

#include <fmt/format.h>

#include <fstream>
#include <sstream>

#include "core/error.h"
#include "core/file.h"
#include "core/hash.h"
#include "core/log.h"

namespace qg {
namespace {

constexpr const char* kIndex = "layers.txt";  // the key, then a layer and the hash of its file a line
constexpr const char* kBase = "base.txt";     // the hash of the base's weights

}  // namespace

LayerJournal::LayerJournal(std::filesystem::path folder, std::string key, const std::function<std::string()>& base)
    : folder_(std::move(folder)), key_(std::move(key)) {
  std::error_code code;
  if (std::filesystem::exists(folder_)) {
    if (!std::filesystem::exists(folder_ / kIndex) && !std::filesystem::is_empty(folder_, code))
      throw Error("it is there already, and holds no layers of a job that was stopped", folder_.string(),
                  "move it away, or give another --out");
    verify(base);
  }
  if (finished_ > 0) return;
  remove();
  std::filesystem::create_directories(folder_, code);
  if (code) throw Error("folder cannot be created: " + code.message(), folder_.string(), "check path and permissions");
  write_file(folder_ / kIndex, key_ + "\n");
}

std::filesystem::path LayerJournal::file_of(int layer) const {
  return folder_ / fmt::format("layer-{:03}.safetensors", layer);
}

void LayerJournal::verify(const std::function<std::string()>& base) {
  if (!std::filesystem::exists(folder_ / kIndex) || !std::filesystem::exists(folder_ / kBase)) return;
  std::istringstream index(read_file(folder_ / kIndex));
  std::string line;
  if (!std::getline(index, line) || line != key_ || read_file(folder_ / kBase) != base()) {
    info("{}: belongs to another job (model, text, recipe or version differ), starting from the first layer",
         folder_.string());
    return;
  }
  std::string kept = key_ + "\n";
  while (std::getline(index, line)) {
    std::istringstream fields(line);
    int layer = -1;
    std::string hash;
    // A line that was cut short by a kill, or a file that is not what the line says: everything from there is redone.
    if (!(fields >> layer >> hash) || layer != finished_ || !std::filesystem::exists(file_of(layer)) ||
        sha256_file(file_of(layer)) != hash)
      break;
    kept += fmt::format("{} {}\n", layer, hash);
    ++finished_;
  }
  write_file(folder_ / kIndex, kept);
}

SafetensorsFile LayerJournal::open(int layer) const {
  return SafetensorsFile(file_of(layer));
}

void LayerJournal::append(int layer, const NamedTensors& tensors) {
  std::vector<TensorEntry> entries;
  for (const auto& [name, tensor] : tensors) entries.push_back({name, tensor.dtype, tensor.shape});
  SafetensorsWriter writer(file_of(layer), entries);
  for (const auto& [name, tensor] : tensors) writer.write(name, tensor);
  writer.finish(false);
  std::ofstream index(folder_ / kIndex, std::ios::app);
  index << fmt::format("{} {}\n", layer, sha256_file(file_of(layer))) << std::flush;
  if (!index) throw Error("cannot be written", (folder_ / kIndex).string(), "is the disk full?");
}

void LayerJournal::set_base(const std::string& hash) {
  if (base_ == hash) return;
  base_ = hash;
  write_file(folder_ / kBase, hash);
}

void LayerJournal::remove() {
  std::error_code code;
  std::filesystem::remove_all(folder_, code);
}

}  // namespace qg
