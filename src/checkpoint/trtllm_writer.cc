#include <algorithm>
#include <map>

#include "checkpoint/folder_checkpoint.h"
#include "checkpoint/kv_scales.h"
#include "checkpoint/partial_folder.h"
#include "checkpoint/strict_json.h"
#include "checkpoint/trtllm.h"
#include "checkpoint/trtllm_linear.h"
#include "checkpoint/trtllm_stored.h"
#include "checkpoint/trtllm_tensors.h"
#include "core/error.h"
#include "core/interrupt.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

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

// A file per rank, each with its part of every tensor.
class RankFiles {
 public:
  RankFiles(const fs::path& folder, const ModelTable& table, const TrtllmConfig& config)
      : shape_(table.shape), ranks_(config.ranks) {
    std::vector<TensorEntry> entries;
    for (const TrtllmTensor& tensor : trtllm_tensors(table, config)) add(tensor, entries);
    open(folder, entries);
  }
  // As above, for tensors that are given.
  RankFiles(const fs::path& folder, const ModelTable& table, int64_t ranks, const std::vector<TrtllmTensor>& tensors)
      : shape_(table.shape), ranks_(ranks) {
    std::vector<TensorEntry> entries;
    for (const TrtllmTensor& tensor : tensors) add(tensor, entries);
    open(folder, entries);
  }

  void write(const std::string& name, const Tensor& tensor) {
    const RankRule& rule = rules_.at(name);
    const Tensor whole = padded_.contains(name) ? padded_rows(tensor, ranks_) : tensor;
    for (int64_t rank = 0; rank < ranks_; ++rank)
      files_[static_cast<size_t>(rank)]->write(name, rank_part(rule, whole, shape_, ranks_, rank));
  }

  void write_kv(const ModelTable& table, const std::vector<KvScale>& scales) {
    for (int layer = 0; layer < table.shape.layers; ++layer) {
      const KvScale& scale = scales.at(static_cast<size_t>(layer));
      const float both = std::max(scale.k, scale.v);  // the layout has one for K and V
      write(kv_scale_name(table, layer), tensor_from_f32(std::vector<float>{both}, {1}));
    }
  }

  void finish() {
    for (const auto& file : files_) file->finish();
  }

 private:
  void add(const TrtllmTensor& tensor, std::vector<TensorEntry>& entries) {
    TensorEntry entry = tensor.entry;
    if (tensor.spec && is_vocabulary(*tensor.spec) && tensor.rule.axis == 0) {
      entry.shape[0] = (entry.shape[0] + ranks_ - 1) / ranks_ * ranks_;
      padded_[entry.name] = true;
    }
    entry.shape = rank_shape(tensor.rule, entry.shape, shape_, ranks_);
    rules_[entry.name] = tensor.rule;
    entries.push_back(std::move(entry));
  }

  void open(const fs::path& folder, const std::vector<TensorEntry>& entries) {
    for (int64_t rank = 0; rank < ranks_; ++rank)
      files_.push_back(std::make_unique<SafetensorsWriter>(folder / trtllm_weights_file(rank), entries));
  }

  ModelShape shape_;
  int64_t ranks_;
  std::map<std::string, RankRule> rules_;
  std::map<std::string, bool> padded_;  // vocabulary tensors that are split by rows
  std::vector<std::unique_ptr<SafetensorsWriter>> files_;
};

// A shared table must be split as lm_head is.
void choose_embedding(TrtllmConfig& config) {
  config.parallel_embedding = config.ranks > 1 && config.shape.tied_embeddings;
  config.embedding_axis = 0;
}

TrtllmConfig config_of(const WriterOptions& options) {
  TrtllmConfig config;
  config.architecture = options.architecture;
  config.shape = options.table.shape;
  config.dtype = options.dtype;
  config.quant = options.quant;
  config.ranks = options.ranks;
  choose_embedding(config);
  return config;
}

class TrtllmWriter final : public CheckpointWriter {
 public:
  explicit TrtllmWriter(const WriterOptions& options)
      : options_(options),
        config_text_(config_text(options)),
        folder_(options.out),
        files_(folder_.path(), options_.table, config_of(options)) {
    if (trtllm_algo(options_.quant) == TrtllmAlgo::int8_per_token)
      for (const std::string& name : scale_to_int_names(options_.table))
        files_.write(name, tensor_from_f32(std::vector<float>{1.0f}, {1}));
  }

  void write(const TensorSpec& spec, const Tensor& tensor) override {
    files_.write(spec.trtllm_name, convert_dtype(tensor, options_.dtype, spec.trtllm_name));
  }

  void write(const LinearSpec& spec, const LinearWeights& weights) override {
    for (const auto& [name, tensor] : encode_trtllm_linear(spec, weights, options_.quant, options_.dtype))
      files_.write(name, tensor);
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
      files_.write_kv(options_.table,
                      scales_to_fix(kv_scales_, *options_.quant.fixed_kv, shape, options_.out.string()));
    else
      write_kv_scales(folder_.path(), kv_scales_, shape);
    files_.finish();
    if (lineage_) write_lineage(folder_.path(), *lineage_);
    write_file(folder_.path() / "config.json", config_text_);
    folder_.commit();
  }

 private:
  // Made first: it refuses what the layout cannot hold before a folder exists.
  static std::string config_text(const WriterOptions& options) {
    const TrtllmConfig config = config_of(options);
    check_ranks(config.shape, config.quant, config.ranks);
    trtllm_tensors(options.table, config);  // a group size that does not divide
    return make_trtllm_config(config).dump(4) + "\n";
  }

  WriterOptions options_;
  std::string config_text_;
  PartialFolder folder_;  // before files_: the files must be gone before their folder goes
  RankFiles files_;
  KvScales kv_scales_;
  std::optional<Lineage> lineage_;
};

// What the folder holds, with its stored types and shapes, and its KV scales left out.
std::vector<TrtllmTensor> stored_tensors(const TrtllmStored& checkpoint, const TrtllmConfig& target) {
  std::vector<TrtllmTensor> tensors;
  for (TrtllmTensor& tensor : trtllm_tensors(checkpoint.table(), target)) {
    if (tensor.entry.name.ends_with(".kv_cache_scaling_factor")) continue;
    const std::string name = rank_tensor_name(tensor.entry.name, checkpoint.config().ranks, 0);
    if (const StoredTensor* stored = checkpoint.stored()->find(name)) tensor.entry.dtype = stored->dtype;
    tensors.push_back(std::move(tensor));
  }
  return tensors;
}

}  // namespace

std::unique_ptr<CheckpointWriter> create_trtllm(const WriterOptions& options) {
  return std::make_unique<TrtllmWriter>(options);
}

int64_t merged_kv_scales(const Checkpoint& checkpoint, KvFormat kv) {
  const std::vector<KvScale>& scales = checkpoint.kv_scales().of(kv);
  return std::count_if(scales.begin(), scales.end(), [](const KvScale& s) { return s.k != s.v; });
}

void rewrite_trtllm(const Checkpoint& checkpoint, std::optional<KvFormat> kv, int64_t ranks, const fs::path& out) {
  const std::string where = checkpoint.folder().string();
  const auto* stored = dynamic_cast<const TrtllmStored*>(&checkpoint);
  if (!stored)
    throw Error("is not in the TensorRT-LLM layout but in " + std::string(to_string(checkpoint.layout())), where);
  if (kv == KvFormat::fp16) throw Error("an fp16 KV cache needs no fixed format", where, "use the folder as it is");
  const QuantSpec& quant = checkpoint.quant();
  if (kv && fixes_kv(quant))
    throw Error("the KV format is fixed already, to " + std::string(to_string(*quant.fixed_kv)), where,
                "convert the -kv_fp16 folder it was made from");

  const ModelTable& table = checkpoint.table();
  TrtllmConfig target = stored->config();
  if (ranks == 0) ranks = target.ranks;
  target.ranks = ranks;
  choose_embedding(target);
  if (kv) target.quant.fixed_kv = kv;
  check_ranks(target.shape, target.quant, ranks);
  std::vector<KvScale> scales;
  if (fixes_kv(target.quant))
    scales = scales_to_fix(checkpoint.kv_scales(), *target.quant.fixed_kv, table.shape, where);

  Json config = read_strict_json(checkpoint.folder() / "config.json");
  if (!config["quantization"].is_object()) config["quantization"] = Json::object();
  if (kv) config["quantization"]["kv_cache_quant_algo"] = *kv == KvFormat::fp8 ? "FP8" : "INT8";
  config["share_embedding_table"] = table.shape.tied_embeddings;  // a second copy of the table is not kept
  if (ranks != stored->config().ranks) {
    config["mapping"] = {{"world_size", ranks}, {"tp_size", ranks}, {"pp_size", 1}};
    config["use_parallel_embedding"] = target.parallel_embedding;
    config["embedding_sharding_dim"] = target.embedding_axis;
  } else {
    target.parallel_embedding = stored->config().parallel_embedding;
    target.embedding_axis = stored->config().embedding_axis;
  }

  PartialFolder folder(out);
  std::vector<TrtllmTensor> tensors = stored_tensors(*stored, target);
  const std::vector<TrtllmTensor> copied = tensors;
  if (fixes_kv(target.quant))
    for (int layer = 0; layer < table.shape.layers; ++layer)
      tensors.push_back({{kv_scale_name(table, layer), DType::f32, {1}}, {}, nullptr});
  RankFiles files(folder.path(), table, ranks, tensors);
  for (const TrtllmTensor& tensor : copied) {
    stop_if_interrupted("from the start: the folder was not finished");
    const std::string& name = tensor.entry.name;
    files.write(name, tensor.spec ? checkpoint.tensor(*tensor.spec) : stored->whole(name));
  }
  if (fixes_kv(target.quant)) files.write_kv(table, scales);
  files.finish();
  copy_side_files(checkpoint.folder(), folder.path());
  if (!fixes_kv(target.quant)) write_kv_scales(folder.path(), checkpoint.kv_scales(), table.shape);
  if (checkpoint.lineage()) {
    Lineage lineage = *checkpoint.lineage();
    if (kv) lineage.recipe["fixed_kv"] = std::string(to_string(*kv));
    describe_folder(lineage, Layout::trtllm, ranks);
    write_lineage(folder.path(), lineage);
  }
  write_file(folder.path() / "config.json", config.dump(4) + "\n");
  folder.commit();
}

}  // namespace qg
