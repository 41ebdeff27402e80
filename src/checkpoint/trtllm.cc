#include "checkpoint/trtllm.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "checkpoint/folder_checkpoint.h"
#include "checkpoint/kv_scales.h"
#include "checkpoint/partial_folder.h"
#include "checkpoint/strict_json.h"
#include "checkpoint/trtllm_linear.h"
#include "core/error.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

// "transformer.layers.3.attention.qkv" → "transformer.layers.3.attention"
std::string parent(const std::string& name) {
  return name.substr(0, name.rfind('.'));
}

std::string kv_scale_name(const ModelTable& table, int layer) {
  return parent(table.linear(LinearRole::qkv, layer).trtllm_name) + ".kv_cache_scaling_factor";
}

// The plugin layout hands a norm's output to int8 through these; per token they are placeholders of 1.
std::vector<std::string> scale_to_int_names(const ModelTable& table) {
  std::vector<std::string> names;
  for (const TensorSpec& spec : table.tensors)
    if (spec.role == TensorRole::attention_norm || spec.role == TensorRole::mlp_norm)
      names.push_back(parent(spec.trtllm_name) + ".scale_to_int");
  return names;
}

bool fixes_kv(const QuantSpec& quant) {
  return quant.fixed_kv && *quant.fixed_kv != KvFormat::fp16;
}

std::vector<TensorEntry> all_entries(const ModelTable& table, const QuantSpec& quant, DType dtype) {
  std::vector<TensorEntry> entries;
  for (const TensorSpec& spec : table.tensors) entries.push_back({spec.trtllm_name, dtype, spec.shape});
  for (const LinearSpec& spec : table.linears)
    for (TensorEntry& entry : trtllm_linear_entries(spec, quant, dtype)) entries.push_back(std::move(entry));
  if (trtllm_algo(quant) == TrtllmAlgo::int8_per_token)
    for (const std::string& name : scale_to_int_names(table)) entries.push_back({name, DType::f32, {1}});
  if (fixes_kv(quant))
    for (int layer = 0; layer < table.shape.layers; ++layer)
      entries.push_back({kv_scale_name(table, layer), DType::f32, {1}});
  return entries;
}

// Rows up to the next multiple of 64 may be padding (writers that quantize lm_head add it).
bool is_vocabulary(const TensorSpec& spec) {
  return spec.role == TensorRole::embedding || spec.role == TensorRole::lm_head;
}

// Whether lm_head is the embedding: it is not stored, or stored a second time.
bool lm_head_is_embedding(const TensorSet& tensors) {
  if (!tensors.find("lm_head.weight")) return true;
  if (!tensors.find("transformer.vocab_embedding.weight")) return false;
  const Tensor head = tensors.get("lm_head.weight"), embedding = tensors.get("transformer.vocab_embedding.weight");
  return head.dtype == embedding.dtype && head.shape == embedding.shape &&
         std::memcmp(head.data, embedding.data, head.bytes()) == 0;
}

ModelTable table_of(const TensorSet& tensors, TrtllmConfig& config,
                    const std::function<ModelTable(const ModelShape&)>& make_table) {
  if (lm_head_is_embedding(tensors))
    config.shape.tied_embeddings = true;
  else if (config.shape.tied_embeddings)
    throw Error("config.json says share_embedding_table, but lm_head.weight is stored and differs",
                tensors.where("lm_head.weight"));
  return make_table(config.shape);
}

class TrtllmCheckpoint final : public FolderCheckpoint {
 public:
  TrtllmCheckpoint(fs::path folder, ModelTable table, TensorSet tensors, const TrtllmConfig& config)
      : FolderCheckpoint(std::move(folder), std::move(table), std::move(tensors)) {
    quant_ = config.quant;
    dtype_ = config.dtype;
    check_tensors();
    kv_scales_ = fixes_kv(quant_) ? inner_kv_scales() : read_kv_scales(folder_, table_.shape);
  }

  Layout layout() const override { return Layout::trtllm; }

  Tensor tensor(const TensorSpec& spec) const override {
    const Tensor stored = tensors_.get(spec.trtllm_name);
    if (is_vocabulary(spec) && stored.shape.size() == 2 && stored.shape[0] > spec.shape[0])
      return row_range(stored, 0, spec.shape[0]);
    return stored;
  }

  LinearWeights linear(const LinearSpec& spec) const override {
    return decode_trtllm_linear(spec, quant_, [&](const std::string& name) { return tensors_.get(name); });
  }

 private:
  void check_tensors() {
    TensorCheck check(tensors_);
    for (const TensorEntry& entry : all_entries(table_, quant_, dtype_)) {
      if (entry.name.ends_with(".kv_cache_scaling_factor")) continue;
      check.expect(entry.name, with_padding(entry), allowed_types(entry, quant_.weights));
    }
    if (table_.shape.tied_embeddings) check.allow("lm_head.weight");
    for (int layer = 0; layer < table_.shape.layers; ++layer) check_kv_tensors(layer, check);
    check.finish(folder_.string());
  }

  // The stored shape where the entry may be padded along its rows, else the entry's own.
  Shape with_padding(const TensorEntry& entry) const {
    const StoredTensor* stored = tensors_.find(entry.name);
    for (const TensorSpec& spec : table_.tensors) {
      if (spec.trtllm_name != entry.name || !is_vocabulary(spec) || !stored || stored->shape.size() != 2) continue;
      const int64_t padded = (spec.shape[0] + 63) / 64 * 64;
      if (stored->shape[1] == spec.shape[1] && stored->shape[0] >= spec.shape[0] && stored->shape[0] <= padded)
        return stored->shape;
    }
    return entry.shape;
  }

  // Writers differ: the bytes of e4m3 as I8, packed int4 as U8, scales in another float type.
  static std::vector<DType> allowed_types(const TensorEntry& entry, WeightFormat weights) {
    if (entry.dtype == DType::f8_e4m3) return {DType::f8_e4m3, DType::i8};
    if (entry.dtype == DType::i8 && weights == WeightFormat::int4_awq) return {DType::i8, DType::u8};
    return entry.dtype == DType::i8 || entry.name.ends_with(".weight") ? std::vector{entry.dtype} : kPlainTypes;
  }

  // The layer's scale, in one tensor or (newer writers) one for K and one for V.
  void check_kv_tensors(int layer, TensorCheck& check) const {
    const std::string prefix = parent(kv_scale_name(table_, layer));
    const bool pair = tensors_.find(prefix + ".k_cache_scaling_factor") != nullptr;
    if (!fixes_kv(quant_)) return;
    check.allow(prefix + ".kv_cache_rcp_scaling_factor");  // 1 / scale, stored by some writers
    if (!pair || tensors_.find(kv_scale_name(table_, layer)))
      check.expect(kv_scale_name(table_, layer), {1}, {DType::f32});
    for (const char* name : {".k_cache_scaling_factor", ".v_cache_scaling_factor"})
      if (pair) check.expect(prefix + name, {1}, {DType::f32});
  }

  KvScales inner_kv_scales() const {
    std::vector<KvScale> list;
    const auto value = [&](const std::string& name) { return to_f32(tensors_.get(name)).at(0); };
    for (int layer = 0; layer < table_.shape.layers; ++layer) {
      const std::string prefix = parent(kv_scale_name(table_, layer));
      if (tensors_.find(kv_scale_name(table_, layer)))
        list.push_back({value(kv_scale_name(table_, layer)), value(kv_scale_name(table_, layer))});
      else
        list.push_back({value(prefix + ".k_cache_scaling_factor"), value(prefix + ".v_cache_scaling_factor")});
    }
    KvScales scales;
    (quant_.fixed_kv == KvFormat::int8 ? scales.int8 : scales.fp8) = std::move(list);
    check_kv_scales(scales, table_.shape, folder_.string());
    return scales;
  }
};

// The layer scales of a fixed KV format: what was calibrated, or 1 for fp8.
std::vector<KvScale> scales_to_fix(const KvScales& scales, KvFormat kv, const ModelShape& shape,
                                   const std::string& where) {
  check_kv_scales(scales, shape, where);
  const std::vector<KvScale>& list = scales.of(kv);
  if (!list.empty()) return list;
  if (kv == KvFormat::int8)
    throw Error("there are no calibrated int8 KV scales", where, "quantize the model again, with KV calibration");
  return std::vector<KvScale>(static_cast<size_t>(shape.layers));
}

void write_kv_tensors(SafetensorsWriter& file, const ModelTable& table, const std::vector<KvScale>& scales) {
  for (int layer = 0; layer < table.shape.layers; ++layer) {
    const KvScale& scale = scales.at(static_cast<size_t>(layer));
    const float both = std::max(scale.k, scale.v);  // the layout has one for K and V
    file.write(kv_scale_name(table, layer), tensor_from_f32(std::vector<float>{both}, {1}));
  }
}

class TrtllmWriter final : public CheckpointWriter {
 public:
  explicit TrtllmWriter(const WriterOptions& options)
      : options_(options),
        config_text_(config_text(options)),
        folder_(options.out),
        file_(folder_.path() / kTrtllmWeightsFile, all_entries(options.table, options.quant, options.dtype)) {
    if (trtllm_algo(options_.quant) == TrtllmAlgo::int8_per_token)
      for (const std::string& name : scale_to_int_names(options_.table))
        file_.write(name, tensor_from_f32(std::vector<float>{1.0f}, {1}));
  }

  void write(const TensorSpec& spec, const Tensor& tensor) override {
    file_.write(spec.trtllm_name, convert_dtype(tensor, options_.dtype, spec.trtllm_name));
  }

  void write(const LinearSpec& spec, const LinearWeights& weights) override {
    for (const auto& [name, tensor] : encode_trtllm_linear(spec, weights, options_.quant, options_.dtype))
      file_.write(name, tensor);
  }

  void set_kv_scales(const KvScales& scales) override {
    check_kv_scales(scales, options_.table.shape, options_.out.string());
    kv_scales_ = scales;
  }
  void set_lineage(const Lineage& lineage) override { lineage_ = lineage; }
  void copy_side_files(const fs::path& from) override { qg::copy_side_files(from, folder_.path()); }
  void write_side_file(const std::string& name, std::string_view text) override {
    write_file(folder_.path() / name, text);
  }

  void finish() override {
    const ModelShape& shape = options_.table.shape;
    if (fixes_kv(options_.quant))
      write_kv_tensors(file_, options_.table,
                       scales_to_fix(kv_scales_, *options_.quant.fixed_kv, shape, options_.out.string()));
    else
      write_kv_scales(folder_.path(), kv_scales_, shape);
    file_.finish();
    if (lineage_) write_lineage(folder_.path(), *lineage_);
    write_file(folder_.path() / "config.json", config_text_);
    folder_.commit();
  }

 private:
  // Made first: it refuses what the layout cannot hold before a folder exists.
  static std::string config_text(const WriterOptions& options) {
    return make_trtllm_config({options.architecture, options.table.shape, options.dtype, options.quant}).dump(4) + "\n";
  }

  WriterOptions options_;
  std::string config_text_;
  PartialFolder folder_;  // before file_: the file must be gone before its folder goes
  SafetensorsWriter file_;
  KvScales kv_scales_;
  std::optional<Lineage> lineage_;
};

}  // namespace

std::unique_ptr<Checkpoint> open_trtllm(const fs::path& folder, TrtllmConfig config,
                                        const std::function<ModelTable(const ModelShape&)>& make_table) {
  TensorSet tensors = TensorSet::open_file(folder / kTrtllmWeightsFile);
  ModelTable table = table_of(tensors, config, make_table);
  return std::make_unique<TrtllmCheckpoint>(folder, std::move(table), std::move(tensors), config);
}

std::unique_ptr<CheckpointWriter> create_trtllm(const WriterOptions& options) {
  return std::make_unique<TrtllmWriter>(options);
}

void write_fixed_kv(const Checkpoint& checkpoint, KvFormat kv, const fs::path& out) {
  const std::string where = checkpoint.folder().string();
  const ModelTable& table = checkpoint.table();
  const TensorSet* stored = checkpoint.stored();
  if (checkpoint.layout() != Layout::trtllm || !stored)
    throw Error("a fixed KV format exists in the TensorRT-LLM layout only, this is " +
                    std::string(to_string(checkpoint.layout())),
                where);
  if (kv == KvFormat::fp16) throw Error("an fp16 KV cache needs no fixed format", where, "use the folder as it is");
  if (fixes_kv(checkpoint.quant()))
    throw Error("the KV format is fixed already, to " + std::string(to_string(*checkpoint.quant().fixed_kv)), where,
                "convert the -kv_fp16 folder it was made from");
  const std::vector<KvScale> scales = scales_to_fix(checkpoint.kv_scales(), kv, table.shape, where);

  Json config = read_strict_json(checkpoint.folder() / "config.json");
  if (!config["quantization"].is_object()) config["quantization"] = Json::object();
  config["quantization"]["kv_cache_quant_algo"] = kv == KvFormat::fp8 ? "FP8" : "INT8";

  PartialFolder folder(out);
  std::vector<TensorEntry> entries;
  for (const std::string& name : stored->names()) entries.push_back(*stored->find(name));
  for (int layer = 0; layer < table.shape.layers; ++layer)
    entries.push_back({kv_scale_name(table, layer), DType::f32, {1}});
  SafetensorsWriter file(folder.path() / kTrtllmWeightsFile, entries);
  for (const std::string& name : stored->names()) file.write(name, stored->get(name));
  write_kv_tensors(file, table, scales);
  file.finish();
  copy_side_files(checkpoint.folder(), folder.path());
  if (checkpoint.lineage()) {
    Lineage lineage = *checkpoint.lineage();
    lineage.recipe["fixed_kv"] = std::string(to_string(kv));
    write_lineage(folder.path(), lineage);
  }
  write_file(folder.path() / "config.json", config.dump(4) + "\n");
  folder.commit();
}

}  // namespace qg
