#include "checkpoint/kv_scales.h"

#include <cmath>

#include "checkpoint/safetensors.h"
#include "core/error.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

std::vector<float> read_list(const SafetensorsFile& file, const std::string& name, int64_t layers) {
  const StoredTensor* stored = file.find(name);
  if (!stored) return {};
  if (stored->dtype != DType::f32 || stored->shape != Shape{layers})
    throw Error("is " + std::string(to_string(stored->dtype)) + " " + to_string(stored->shape) + ", should be F32 [" +
                    std::to_string(layers) + "], one scale a layer",
                file.path().string() + ", tensor " + name);
  return to_f32(file.view(*stored));
}

std::vector<KvScale> read_pair(const SafetensorsFile& file, const std::string& format, int64_t layers) {
  const std::vector<float> k = read_list(file, format + ".k", layers), v = read_list(file, format + ".v", layers);
  if (k.size() != v.size())
    throw Error("holds only one of " + format + ".k and " + format + ".v", file.path().string());
  std::vector<KvScale> scales;
  for (size_t i = 0; i < k.size(); ++i) scales.push_back({k[i], v[i]});
  return scales;
}

void check_list(const std::vector<KvScale>& list, const char* format, int64_t layers, const std::string& where) {
  if (list.empty()) return;
  if (static_cast<int64_t>(list.size()) != layers)
    throw Error(std::to_string(list.size()) + " KV scales for " + format + ", the model has " + std::to_string(layers) +
                    " layers",
                where);
  for (size_t i = 0; i < list.size(); ++i)
    for (float scale : {list[i].k, list[i].v})
      if (!std::isfinite(scale) || scale <= 0)
        throw Error("KV scale for " + std::string(format) + " of layer " + std::to_string(i) + " is " +
                        std::to_string(scale) + ", should be finite and above 0",
                    where);
}

}  // namespace

void check_kv_scales(const KvScales& scales, int64_t layers, const std::string& where) {
  check_list(scales.fp8, "fp8", layers, where);
  check_list(scales.int8, "int8", layers, where);
}

KvScales read_kv_scales(const fs::path& folder, int64_t layers) {
  const fs::path path = folder / kKvScalesFile;
  if (!fs::exists(path)) return {};
  const SafetensorsFile file(path);
  for (const StoredTensor& stored : file.tensors())
    if (stored.name != "fp8.k" && stored.name != "fp8.v" && stored.name != "int8.k" && stored.name != "int8.v")
      throw Error("tensor " + stored.name + " is not known here", path.string());
  const KvScales scales{read_pair(file, "fp8", layers), read_pair(file, "int8", layers)};
  check_kv_scales(scales, layers, path.string());
  return scales;
}

void write_kv_scales(const fs::path& folder, const KvScales& scales, int64_t layers) {
  const fs::path path = folder / kKvScalesFile;
  check_kv_scales(scales, layers, path.string());
  std::vector<TensorEntry> entries;
  std::vector<Tensor> tensors;
  const auto add = [&](const std::string& name, const std::vector<KvScale>& list, float KvScale::*member) {
    std::vector<float> values;
    for (const KvScale& scale : list) values.push_back(scale.*member);
    entries.push_back({name, DType::f32, {layers}});
    tensors.push_back(tensor_from_f32(values, {layers}));
  };
  for (const auto& [format, list] : {std::pair{"fp8", &scales.fp8}, std::pair{"int8", &scales.int8}}) {
    if (list->empty()) continue;
    add(std::string(format) + ".k", *list, &KvScale::k);
    add(std::string(format) + ".v", *list, &KvScale::v);
  }
  if (entries.empty()) return;
  SafetensorsWriter writer(path, entries);
  for (size_t i = 0; i < entries.size(); ++i) writer.write(entries[i].name, tensors[i]);
  writer.finish();
}

}  // namespace qg
