#include "checkpoint/kv_scales.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "checkpoint/safetensors.h"
#include "core/error.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

constexpr const char* kBaseHashKey = "base_hash";

// One array of KvShaping in the file.
struct ShapedTensor {
  const char* name;
  std::vector<float> KvShaping::*values;
  bool matrix;  // [kv_heads, head_dim, head_dim] of F16 a layer; else [kv_heads, head_dim] of F32
};
constexpr ShapedTensor kShapedTensors[] = {{"shaped.k_center", &KvShaping::k_center, false},
                                           {"shaped.k_transform", &KvShaping::k_transform, true},
                                           {"shaped.q_transform", &KvShaping::q_transform, true},
                                           {"shaped.k_feedback", &KvShaping::k_feedback, true}};
struct ShapedScale {
  const char* name;
  float KvShaping::*value;
};
constexpr ShapedScale kShapedScales[] = {{"shaped.fp8.k", &KvShaping::fp8_k_scale},
                                         {"shaped.int8.k", &KvShaping::int8_k_scale}};

Shape stored_shape(const ShapedTensor& tensor, const ModelShape& shape) {
  Shape dims{shape.layers, shape.kv_heads, shape.head_dim};
  if (tensor.matrix) dims.push_back(shape.head_dim);
  return dims;
}

DType stored_dtype(const ShapedTensor& tensor) {
  return tensor.matrix ? DType::f16 : DType::f32;
}

int64_t elements_per_layer(const ShapedTensor& tensor, const ModelShape& shape) {
  return shape.kv_rows() * (tensor.matrix ? shape.head_dim : 1);
}

std::vector<float> read_tensor(const SafetensorsFile& file, const std::string& name, DType dtype, const Shape& shape,
                               const char* what) {
  const StoredTensor* stored = file.find(name);
  if (!stored) return {};
  if (stored->dtype != dtype || stored->shape != shape)
    throw Error(fmt::format("is {} {}, should be {} {}, {}", to_string(stored->dtype), to_string(stored->shape),
                            to_string(dtype), to_string(shape), what),
                file.path().string() + ", tensor " + name);
  return to_f32(file.view(*stored));
}

std::vector<KvScale> read_pair(const SafetensorsFile& file, const std::string& format, int64_t layers) {
  const auto list = [&](const std::string& name) {
    return read_tensor(file, name, DType::f32, {layers}, "one scale a layer");
  };
  const std::vector<float> k = list(format + ".k"), v = list(format + ".v");
  if (k.size() != v.size())
    throw Error("holds only one of " + format + ".k and " + format + ".v", file.path().string());
  std::vector<KvScale> scales;
  for (size_t i = 0; i < k.size(); ++i) scales.push_back({k[i], v[i]});
  return scales;
}

// None of them in the file: plain keys. Some of them: an Error.
bool has_shaping(const SafetensorsFile& file) {
  std::set<std::string> missing, found;
  const auto look = [&](const char* name) { (file.find(name) ? found : missing).insert(name); };
  for (const ShapedTensor& tensor : kShapedTensors) look(tensor.name);
  for (const ShapedScale& scale : kShapedScales) look(scale.name);
  if (!found.empty() && !missing.empty())
    throw Error("holds " + *found.begin() + " but not " + *missing.begin(), file.path().string(),
                "calibrate the KV scales again");
  return missing.empty();
}

std::vector<KvShaping> read_shaping(const SafetensorsFile& file, const ModelShape& shape) {
  if (!has_shaping(file)) return {};
  std::vector<KvShaping> layers(static_cast<size_t>(shape.layers));
  for (const ShapedScale& scale : kShapedScales) {
    const std::vector<float> all = read_tensor(file, scale.name, DType::f32, {shape.layers}, "one scale a layer");
    for (size_t i = 0; i < layers.size(); ++i) layers[i].*scale.value = all[i];
  }
  for (const ShapedTensor& tensor : kShapedTensors) {
    const std::vector<float> all =
        read_tensor(file, tensor.name, stored_dtype(tensor), stored_shape(tensor, shape), "of every layer and KV head");
    const int64_t count = elements_per_layer(tensor, shape);
    for (size_t i = 0; i < layers.size(); ++i) {
      const auto begin = all.begin() + static_cast<int64_t>(i) * count;
      (layers[i].*tensor.values).assign(begin, begin + count);
    }
  }
  return layers;
}

void require(bool ok, const std::string& what, const std::string& where) {
  if (!ok) throw Error(what, where, "calibrate the KV scales again");
}

void check_length(size_t have, const char* what, const ModelShape& shape, const std::string& where) {
  require(have == 0 || static_cast<int64_t>(have) == shape.layers,
          fmt::format("{} KV {}, the model has {} layers", have, what, shape.layers), where);
}

void check_scale(float scale, const char* format, size_t layer, const std::string& where) {
  require(std::isfinite(scale) && scale > 0,
          fmt::format("KV scale for {} of layer {} is {}, should be finite and above 0", format, layer, scale), where);
}

void check_shaping(const KvShaping& shaping, size_t layer, const ModelShape& shape, const std::string& where) {
  check_scale(shaping.fp8_k_scale, "fp8, shaped,", layer, where);
  check_scale(shaping.int8_k_scale, "int8, shaped,", layer, where);
  for (const ShapedTensor& tensor : kShapedTensors) {
    const std::vector<float>& values = shaping.*tensor.values;
    const std::string name = fmt::format("{} of layer {}", tensor.name, layer);
    require(static_cast<int64_t>(values.size()) == elements_per_layer(tensor, shape),
            fmt::format("{} has {} elements, should have {}", name, values.size(), elements_per_layer(tensor, shape)),
            where);
    require(std::all_of(values.begin(), values.end(), [](float v) { return std::isfinite(v); }),
            name + " holds values that are infinite or not a number", where);
  }
  const int64_t n = shape.head_dim;
  for (int64_t row = 0; row < shape.kv_rows(); ++row)
    for (int64_t i = 0; i <= row % n; ++i)
      require(shaping.k_feedback[static_cast<size_t>(row * n + i)] == 0,
              fmt::format("shaped.k_feedback of layer {} is not zero on and left of its diagonal", layer), where);
}

// The file's tensors in memory, then in one go: they are small beside a model's weights.
void write_file(const fs::path& path, const KvScales& scales, const ModelShape& shape,
                const std::map<std::string, std::string>& metadata) {
  check_kv_scales(scales, shape, path.string());
  std::vector<TensorEntry> entries;
  std::vector<Tensor> tensors;
  const auto add = [&](const std::string& name, const std::vector<float>& values, Shape dims, DType dtype) {
    entries.push_back({name, dtype, dims});
    tensors.push_back(tensor_from_f32(values, std::move(dims), dtype));
  };
  const auto add_list = [&](const std::string& name, const auto& list, auto member) {
    std::vector<float> values;
    for (const auto& layer : list) values.push_back(layer.*member);
    add(name, values, {shape.layers}, DType::f32);
  };
  for (const auto& [format, list] : {std::pair{"fp8", &scales.fp8}, std::pair{"int8", &scales.int8}}) {
    if (list->empty()) continue;
    add_list(std::string(format) + ".k", *list, &KvScale::k);
    add_list(std::string(format) + ".v", *list, &KvScale::v);
  }
  if (!scales.shaping.empty()) {
    for (const ShapedScale& scale : kShapedScales) add_list(scale.name, scales.shaping, scale.value);
    for (const ShapedTensor& tensor : kShapedTensors) {
      std::vector<float> all;
      for (const KvShaping& layer : scales.shaping)
        all.insert(all.end(), (layer.*tensor.values).begin(), (layer.*tensor.values).end());
      add(tensor.name, all, stored_shape(tensor, shape), stored_dtype(tensor));
    }
  }
  if (entries.empty()) return;
  SafetensorsWriter writer(path, entries, metadata);
  for (size_t i = 0; i < entries.size(); ++i) writer.write(entries[i].name, tensors[i]);
  writer.finish();
}

KvScales read_file(const SafetensorsFile& file, const ModelShape& shape) {
  std::set<std::string> known{"fp8.k", "fp8.v", "int8.k", "int8.v"};
  for (const ShapedTensor& tensor : kShapedTensors) known.insert(tensor.name);
  for (const ShapedScale& scale : kShapedScales) known.insert(scale.name);
  for (const StoredTensor& stored : file.tensors())
    if (!known.contains(stored.name)) throw Error("tensor " + stored.name + " is not known here", file.path().string());
  KvScales scales{read_pair(file, "fp8", shape.layers), read_pair(file, "int8", shape.layers),
                  read_shaping(file, shape)};
  check_kv_scales(scales, shape, file.path().string());
  return scales;
}

// Another checkpoint with other KV scales.
class RescaledCheckpoint final : public Checkpoint {
 public:
  RescaledCheckpoint(std::shared_ptr<const Checkpoint> base, KvScales scales)
      : base_(std::move(base)), scales_(std::move(scales)) {}

  Layout layout() const override { return base_->layout(); }
  const ModelTable& table() const override { return base_->table(); }
  const QuantSpec& quant() const override { return base_->quant(); }
  DType dtype() const override { return base_->dtype(); }
  Tensor tensor(const TensorSpec& spec) const override { return base_->tensor(spec); }
  LinearWeights linear(const LinearSpec& spec) const override { return base_->linear(spec); }
  const KvScales& kv_scales() const override { return scales_; }
  const std::optional<Lineage>& lineage() const override { return base_->lineage(); }
  const fs::path& folder() const override { return base_->folder(); }
  int64_t stored_bytes() const override { return base_->stored_bytes(); }
  std::string weights_hash() const override { return base_->weights_hash(); }
  const TensorSet* stored() const override { return base_->stored(); }

 private:
  std::shared_ptr<const Checkpoint> base_;
  KvScales scales_;
};

}  // namespace

void check_kv_scales(const KvScales& scales, const ModelShape& shape, const std::string& where) {
  check_length(scales.fp8.size(), "scales for fp8", shape, where);
  check_length(scales.int8.size(), "scales for int8", shape, where);
  check_length(scales.shaping.size(), "shapings", shape, where);
  for (const auto& [format, list] : {std::pair{"fp8", &scales.fp8}, std::pair{"int8", &scales.int8}})
    for (size_t i = 0; i < list->size(); ++i)
      for (const float scale : {(*list)[i].k, (*list)[i].v}) check_scale(scale, format, i, where);
  require(scales.shaping.empty() || (!scales.fp8.empty() && !scales.int8.empty()),
          "shaped keys need the fp8 and int8 scales of V too", where);
  for (size_t i = 0; i < scales.shaping.size(); ++i) check_shaping(scales.shaping[i], i, shape, where);
}

KvScales read_kv_scales(const fs::path& folder, const ModelShape& shape) {
  const fs::path path = folder / kKvScalesFile;
  if (!fs::exists(path)) return {};
  return read_file(SafetensorsFile(path), shape);
}

void write_kv_scales(const fs::path& folder, const KvScales& scales, const ModelShape& shape) {
  write_file(folder / kKvScalesFile, scales, shape, {{"format", "pt"}});
}

void write_kv_scales_file(const fs::path& file, const KvScales& scales, const ModelShape& shape,
                          const std::string& base_hash) {
  write_file(file, scales, shape, {{"format", "pt"}, {kBaseHashKey, base_hash}});
}

std::shared_ptr<const Checkpoint> with_kv_scales(std::shared_ptr<const Checkpoint> checkpoint, const fs::path& path,
                                                 const std::string& base_hash) {
  if (checkpoint->quant().fixed_kv)
    throw Error("the checkpoint's KV format and scales are fixed inside it", checkpoint->folder().string(),
                "leave out the file of KV scales, or use the checkpoint whose KV format is chosen at run time");
  const SafetensorsFile file(path);
  const auto made_from = file.metadata().find(kBaseHashKey);
  const std::string& wanted =
      !base_hash.empty() || !checkpoint->lineage() ? base_hash : checkpoint->lineage()->base_hash;
  if (made_from != file.metadata().end() && !wanted.empty() && made_from->second != wanted)
    throw Error("was calibrated on other weights than those of " + checkpoint->folder().string(), path.string(),
                "calibrate the KV scales again");
  KvScales scales = read_file(file, checkpoint->table().shape);
  return std::make_shared<RescaledCheckpoint>(std::move(checkpoint), std::move(scales));
}

}  // namespace qg
