#include "checkpoint/hf_quantized.h"

#include <algorithm>
#include <cmath>

#include "checkpoint/folder_checkpoint.h"
#include "checkpoint/kv_scales.h"
#include "checkpoint/linear_parts.h"
#include "checkpoint/partial_folder.h"
#include "core/error.h"
#include "core/log.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

std::string parent(const std::string& name) {
  return name.substr(0, name.rfind('.'));
}

HfQuantLayout::KvNames kv_names(const HfQuantLayout& layout, const ModelTable& table, int64_t layer) {
  return layout.kv_names(parent(table.linear(LinearRole::qkv, static_cast<int>(layer)).parts.front().hf_name));
}

bool fixes_kv(const QuantSpec& quant) {
  return quant.fixed_kv && *quant.fixed_kv != KvFormat::fp16;
}

std::vector<PartSpec> parts_of(const LinearSpec& spec) {
  std::vector<PartSpec> parts;
  for (const LinearSpec::Part& part : spec.parts) parts.push_back({spec, part.rows, part.hf_name});
  return parts;
}

class HfQuantizedCheckpoint final : public FolderCheckpoint {
 public:
  HfQuantizedCheckpoint(const fs::path& folder, const HfQuantLayout& layout, const Json& config, ModelTable table)
      : FolderCheckpoint(folder, std::move(table), TensorSet::open_folder(folder)), layout_(layout) {
    quant_ = layout.parse(config, folder);
    const StoredTensor* embedding = tensors_.find(table_.find(TensorRole::embedding)->hf_name);
    if (embedding) dtype_ = embedding->dtype;
    check_tensors();
    kv_scales_ = fixes_kv(quant_) ? inner_kv_scales() : read_kv_scales(folder_, table_.shape);
    report_joined_scales();
  }

  Layout layout() const override { return layout_.layout(); }

  Tensor tensor(const TensorSpec& spec) const override { return tensors_.get(spec.hf_name); }

  LinearWeights linear(const LinearSpec& spec) const override { return joined(spec, nullptr); }

 private:
  LinearWeights joined(const LinearSpec& spec, std::vector<std::string>* notes) const {
    std::vector<LinearWeights> parts;
    for (const PartSpec& part : parts_of(spec)) {
      LinearWeights weights = layout_.decode(part, quant_, [&](const std::string& suffix) {
        return tensors_.find(part.name + suffix) ? tensors_.get(part.name + suffix) : Tensor();
      });
      weights.format = quant_.weights;
      weights.n = part.rows;
      weights.k = spec.k;
      weights.group_size = quant_.group_size;
      parts.push_back(std::move(weights));
    }
    return stack_parts(parts, folder_.string() + ", " + parent(spec.parts.front().hf_name), notes);
  }

  // Static input scales of q, k and v are joined when they differ, which is said once, when the folder is opened.
  void report_joined_scales() const {
    if (quant_.activations != ActivationScaling::static_tensor) return;
    int64_t layers = 0;
    for (const LinearSpec& spec : table_.linears) {
      if (spec.parts.size() < 2) continue;
      std::vector<std::string> values;
      for (const LinearSpec::Part& part : spec.parts) {
        const Tensor scale = tensors_.get(part.hf_name + ".input_scale");
        values.emplace_back(reinterpret_cast<const char*>(scale.data), scale.bytes());
      }
      layers += std::count(values.begin(), values.end(), values.front()) != static_cast<int64_t>(values.size());
    }
    if (layers > 0)
      info("{}: the static input scales of q, k and v differ in {} layers; the greatest of each layer is used",
           folder_.string(), layers);
  }

  void check_tensors() {
    TensorCheck check(tensors_);
    for (const TensorSpec& spec : table_.tensors) check.expect(spec.hf_name, spec.shape, kPlainTypes);
    for (const LinearSpec& spec : table_.linears)
      for (const PartSpec& part : parts_of(spec))
        for (const PartTensor& tensor : layout_.tensors(part, quant_, dtype_)) check_part(part, tensor, check);
    for (int64_t layer = 0; layer < table_.shape.layers; ++layer) check_kv(layer, check);
    allow_rope_frequencies(check);
    if (table_.shape.tied_embeddings) check_tied_head(check);
    check.finish(folder_.string());
  }

  void check_part(const PartSpec& part, const PartTensor& tensor, TensorCheck& check) const {
    const std::string name = part.name + tensor.suffix;
    const StoredTensor* stored = tensors_.find(name);
    if (!stored && tensor.optional) return;
    const bool other_shape =
        stored && std::find(tensor.shapes.begin(), tensor.shapes.end(), stored->shape) != tensor.shapes.end();
    check.expect(name, other_shape ? stored->shape : tensor.shapes.front(), tensor.dtypes);
  }

  void check_kv(int64_t layer, TensorCheck& check) const {
    const HfQuantLayout::KvNames names = kv_names(layout_, table_, layer);
    if (names.k.empty() || !fixes_kv(quant_)) return;
    for (const std::string& name : {names.k, names.v}) {
      const StoredTensor* stored = tensors_.find(name);
      const bool one = stored && num_elements(stored->shape) == 1;
      check.expect(name, one ? stored->shape : names.shape, kPlainTypes);
    }
  }

  KvScales inner_kv_scales() const {
    KvScales scales;
    for (int64_t layer = 0; layer < table_.shape.layers; ++layer) {
      const HfQuantLayout::KvNames names = kv_names(layout_, table_, layer);
      scales.fp8.push_back({to_f32(tensors_.get(names.k)).at(0), to_f32(tensors_.get(names.v)).at(0)});
    }
    check_kv_scales(scales, table_.shape, folder_.string());
    return scales;
  }

  const HfQuantLayout& layout_;
};

class HfQuantizedWriter final : public CheckpointWriter {
 public:
  explicit HfQuantizedWriter(const WriterOptions& options)
      : options_(options),
        layout_(hf_quant_layout(options.layout)),
        config_(make_config()),
        folder_(options.out),
        file_(folder_.path() / "model.safetensors", entries()) {}

  void write(const TensorSpec& spec, const Tensor& tensor) override {
    file_.write(spec.hf_name, convert_dtype(tensor, options_.dtype, spec.hf_name));
  }

  void write(const LinearSpec& spec, const LinearWeights& weights) override {
    if (weights.format != options_.quant.weights || weights.n != spec.n || weights.k != spec.k)
      throw Error("weights are " + std::string(to_string(weights.format)) + " " +
                      to_string(Shape{weights.n, weights.k}) + ", the checkpoint's are " +
                      std::string(to_string(options_.quant.weights)) + " " + to_string(Shape{spec.n, spec.k}),
                  spec.parts.front().hf_name);
    if (weights.group_size != options_.quant.group_size)
      throw Error("group size is " + std::to_string(weights.group_size) + ", the checkpoint's is " +
                      std::to_string(options_.quant.group_size),
                  spec.parts.front().hf_name);
    int64_t row = 0;
    for (const PartSpec& part : parts_of(spec)) {
      const LinearWeights rows = part_rows(weights, row, part.rows);
      for (const auto& [suffix, tensor] : layout_.encode(part, rows, options_.quant, options_.dtype))
        file_.write(part.name + suffix, tensor);
      row += part.rows;
    }
  }

  void set_kv_scales(const KvScales& scales) override {
    check_kv_scales(scales, options_.table.shape, options_.out.string());
    kv_scales_ = scales;
  }
  void set_lineage(const Lineage& lineage) override { lineage_ = lineage; }
  void copy_side_files(const fs::path& from) override {
    qg::copy_side_files(from, folder_.path());
    config_.update(token_ids_of(from));
  }
  void write_side_file(const std::string& name, std::string_view text) override {
    write_file(folder_.path() / name, text);
  }

  void finish() override {
    if (fixes_kv(options_.quant))
      write_kv();
    else
      write_kv_scales(folder_.path(), kv_scales_, options_.table.shape);
    file_.finish();
    write_index_beside_kv_scales(folder_.path(), entries());
    if (lineage_) write_lineage(folder_.path(), *lineage_);
    for (const auto& [name, json] : files_) write_file(folder_.path() / name, json.dump(2) + "\n");
    write_file(folder_.path() / "config.json", config_.dump(2) + "\n");
    folder_.commit();
  }

 private:
  // Made first: it refuses what the layout cannot hold before a folder exists.
  Json make_config() {
    if (!options_.hf_rules) throw Error("the family's config.json rules are needed to write a Hugging Face folder");
    layout_.check(options_.quant, options_.dtype);
    if (fixes_kv(options_.quant) && *options_.quant.fixed_kv != KvFormat::fp8)
      throw Error("the " + std::string(to_string(options_.layout)) + " layout has no place for an int8 KV cache", "",
                  "use --kv fp8, or the trtllm layout");
    if (fixes_kv(options_.quant) && kv_names(layout_, options_.table, 0).k.empty())
      throw Error("the " + std::string(to_string(options_.layout)) + " layout has no place for KV scales", "",
                  "leave --kv out: the KV format is chosen at run time");
    Json config = make_hf_config(options_.table.shape, options_.dtype, *options_.hf_rules);
    files_ = layout_.describe(options_.quant, config);
    return config;
  }

  std::vector<TensorEntry> entries() const {
    std::vector<TensorEntry> list;
    for (const TensorSpec& spec : options_.table.tensors) list.push_back({spec.hf_name, options_.dtype, spec.shape});
    for (const LinearSpec& spec : options_.table.linears)
      for (const PartSpec& part : parts_of(spec))
        for (const PartTensor& tensor : layout_.tensors(part, options_.quant, options_.dtype))
          if (!tensor.optional) list.push_back({part.name + tensor.suffix, tensor.dtypes[0], tensor.shapes[0]});
    if (!fixes_kv(options_.quant)) return list;
    for (int64_t layer = 0; layer < options_.table.shape.layers; ++layer) {
      const HfQuantLayout::KvNames names = kv_names(layout_, options_.table, layer);
      list.push_back({names.k, DType::f32, names.shape});
      list.push_back({names.v, DType::f32, names.shape});
    }
    return list;
  }

  // Without calibration all scales are 1, as other tools write them.
  void write_kv() {
    for (int64_t layer = 0; layer < options_.table.shape.layers; ++layer) {
      const KvScale scale = kv_scales_.fp8.empty() ? KvScale() : kv_scales_.fp8.at(static_cast<size_t>(layer));
      const HfQuantLayout::KvNames names = kv_names(layout_, options_.table, layer);
      file_.write(names.k, tensor_from_f32(std::vector<float>{scale.k}, names.shape));
      file_.write(names.v, tensor_from_f32(std::vector<float>{scale.v}, names.shape));
    }
  }

  WriterOptions options_;
  const HfQuantLayout& layout_;
  std::vector<std::pair<std::string, Json>> files_;
  Json config_;
  PartialFolder folder_;  // before file_: the file must be gone before its folder goes
  SafetensorsWriter file_;
  KvScales kv_scales_;
  std::optional<Lineage> lineage_;
};

}  // namespace

const HfQuantLayout& hf_quant_layout(Layout layout) {
  for (const HfQuantLayout* row : {&modelopt_layout(), &compressed_tensors_layout(), &autoawq_layout()})
    if (row->layout() == layout) return *row;
  throw Error("layout " + std::string(to_string(layout)) + " is not a quantized Hugging Face layout");
}

std::unique_ptr<Checkpoint> open_hf_quantized(const fs::path& folder, const HfQuantLayout& layout, const Json& config,
                                              ModelTable table) {
  return std::make_unique<HfQuantizedCheckpoint>(folder, layout, config, std::move(table));
}

std::unique_ptr<CheckpointWriter> create_hf_quantized(const WriterOptions& options) {
  return std::make_unique<HfQuantizedWriter>(options);
}

void check_part_scales(const Tensor& scales, const PartSpec& part, const std::string& what, bool zero_allowed) {
  for (float scale : to_f32(scales))
    if (!std::isfinite(scale) || scale < 0 || (scale == 0 && !zero_allowed))
      throw Error(what + " holds the scale " + std::to_string(scale) + ", should be finite and above 0", part.name);
}

Tensor read_part_scale(const PartSpec& part, const GetTensor& get, const std::string& suffix, Shape shape) {
  const Tensor scale = in_shape(get(suffix), std::move(shape));
  check_part_scales(scale, part, suffix.substr(1), suffix != ".input_scale");  // by which inputs are divided
  return convert_dtype(scale, DType::f32, part.name + suffix);
}

void refuse_part_tensor(const Tensor& tensor, const PartSpec& part, const std::string& what, const std::string& why) {
  if (!tensor.empty()) throw Error("this layout has no place for " + what + ": " + why, part.name);
}

Tensor in_shape(Tensor tensor, Shape shape) {
  if (tensor.empty() || num_elements(shape) != tensor.elements())
    throw Error("shape " + to_string(tensor.shape) + " does not hold " + to_string(shape));
  tensor.shape = std::move(shape);
  return tensor;
}

void check_ignored_modules(const Json& names, const std::string& where) {
  if (names.is_null()) return;
  if (!names.is_array()) throw Error("the list of unquantized modules should be a list of names", where);
  for (const Json& name : names) {
    if (!name.is_string()) throw Error("the list of unquantized modules should be a list of names", where);
    std::string text = name.get<std::string>();
    text.erase(std::remove_if(text.begin(), text.end(), [](char c) { return std::strchr("*.^$\\", c) != nullptr; }),
               text.end());
    if (text.starts_with("re:")) text = text.substr(3);
    if (text != "lm_head" && text != "modelembed_tokens" && text != "embed_tokens")
      throw Error("module \"" + name.get<std::string>().substr(0, 100) + "\" is left unquantized", where,
                  "only models whose linear layers are all quantized alike are run; lm_head and the embedding stay "
                  "16-bit");
  }
}

}  // namespace qg
