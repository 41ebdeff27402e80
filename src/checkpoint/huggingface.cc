#include "checkpoint/huggingface.h"

#include <cstring>

#include "checkpoint/folder_checkpoint.h"
#include "checkpoint/kv_scales.h"
#include "checkpoint/partial_folder.h"
#include "core/error.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

class HuggingfaceCheckpoint final : public FolderCheckpoint {
 public:
  HuggingfaceCheckpoint(fs::path folder, ModelTable table)
      : FolderCheckpoint(folder, std::move(table), TensorSet::open_folder(folder)) {
    check_tensors();
    dtype_ = tensors_.find(table_.find(TensorRole::embedding)->hf_name)->dtype;
    kv_scales_ = read_kv_scales(folder_, table_.shape);
  }

  Layout layout() const override { return Layout::huggingface; }

  Tensor tensor(const TensorSpec& spec) const override {
    const Tensor stored = tensors_.get(spec.hf_name);
    if (stored.shape != spec.shape)
      throw Error("has shape " + to_string(stored.shape) + ", should have " + to_string(spec.shape),
                  tensors_.where(spec.hf_name));
    return stored;
  }

  LinearWeights linear(const LinearSpec& spec) const override {
    LinearWeights weights;
    weights.n = spec.n;
    weights.k = spec.k;
    const Tensor first = tensors_.get(spec.parts.front().hf_name + ".weight");
    if (spec.parts.size() == 1) {
      weights.weight = first;
      return weights;
    }
    NewTensor stacked = new_tensor(first.dtype, {spec.n, spec.k});
    std::byte* to = stacked.data;
    for (const LinearSpec::Part& part : spec.parts) {
      const Tensor matrix = tensors_.get(part.hf_name + ".weight");
      std::memcpy(to, matrix.data, matrix.bytes());
      to += matrix.bytes();
    }
    weights.weight = stacked.tensor;
    return weights;
  }

 private:
  void check_tensors() const {
    TensorCheck check(tensors_);
    for (const TensorSpec& spec : table_.tensors) check.expect(spec.hf_name, spec.shape, kPlainTypes);
    for (const LinearSpec& spec : table_.linears) check_parts(spec, check);
    allow_rope_frequencies(check);
    if (table_.shape.tied_embeddings) check_tied_head(check);
    check.finish(folder_.string());
  }

  void check_parts(const LinearSpec& spec, TensorCheck& check) const {
    const StoredTensor* first = tensors_.find(spec.parts.front().hf_name + ".weight");
    for (const LinearSpec::Part& part : spec.parts) {
      const std::string name = part.hf_name + ".weight";
      check.expect(name, {part.rows, spec.k}, kPlainTypes);
      const StoredTensor* stored = tensors_.find(name);
      if (first && stored && stored->dtype != first->dtype)
        check.problem("tensor " + name + " is " + std::string(to_string(stored->dtype)) + ", but " + first->name +
                      ", which is run with it, is " + std::string(to_string(first->dtype)));
    }
  }
};

class HuggingfaceWriter final : public CheckpointWriter {
 public:
  explicit HuggingfaceWriter(const WriterOptions& options)
      : options_(options), folder_(options.out), file_(folder_.path() / "model.safetensors", entries(options)) {}

  void write(const TensorSpec& spec, const Tensor& tensor) override {
    file_.write(spec.hf_name, convert_dtype(tensor, options_.dtype, spec.hf_name));
  }

  void write(const LinearSpec& spec, const LinearWeights& weights) override {
    if (weights.format != WeightFormat::fp16)
      throw Error("weights are " + std::string(to_string(weights.format)) + ", this folder holds fp16",
                  spec.trtllm_name);
    const Tensor matrix = convert_dtype(weights.weight, options_.dtype, spec.trtllm_name);
    if (matrix.shape != Shape{spec.n, spec.k})
      throw Error("has shape " + to_string(matrix.shape) + ", should have " + to_string(Shape{spec.n, spec.k}),
                  spec.trtllm_name);
    int64_t row = 0;
    for (const LinearSpec::Part& part : spec.parts) {
      file_.write(part.hf_name + ".weight", row_range(matrix, row, part.rows));
      row += part.rows;
    }
  }

  void set_kv_scales(const KvScales& scales) override { kv_scales_ = scales; }
  void set_lineage(const Lineage& lineage) override { lineage_ = lineage; }
  void copy_side_files(const fs::path& from) override {
    qg::copy_side_files(from, folder_.path());
    token_ids_ = token_ids_of(from);
  }
  void write_side_file(const std::string& name, std::string_view text) override {
    write_file(folder_.path() / name, text);
  }

  void finish() override {
    file_.finish();
    write_kv_scales(folder_.path(), kv_scales_, options_.table.shape);
    if (lineage_) write_lineage(folder_.path(), *lineage_);
    write_index_beside_kv_scales(folder_.path(), entries(options_));
    Json config = make_hf_config(options_.table.shape, options_.dtype, *options_.hf_rules);
    config.update(token_ids_);
    write_file(folder_.path() / "config.json", config.dump(2) + "\n");
    folder_.commit();
  }

 private:
  static std::vector<TensorEntry> entries(const WriterOptions& options) {
    std::vector<TensorEntry> list;
    for (const TensorSpec& spec : options.table.tensors) list.push_back({spec.hf_name, options.dtype, spec.shape});
    for (const LinearSpec& spec : options.table.linears)
      for (const LinearSpec::Part& part : spec.parts)
        list.push_back({part.hf_name + ".weight", options.dtype, {part.rows, spec.k}});
    return list;
  }

  WriterOptions options_;
  PartialFolder folder_;  // before file_: the file must be gone before its folder goes
  SafetensorsWriter file_;
  KvScales kv_scales_;
  Json token_ids_ = Json::object();
  std::optional<Lineage> lineage_;
};

}  // namespace

std::unique_ptr<Checkpoint> open_huggingface(const fs::path& folder, ModelTable table) {
  return std::make_unique<HuggingfaceCheckpoint>(folder, std::move(table));
}

std::unique_ptr<CheckpointWriter> create_huggingface(const WriterOptions& options) {
  if (options.quant.weights != WeightFormat::fp16)
    throw Error("the Hugging Face layout without quantization holds fp16 weights only, not " +
                    std::string(to_string(options.quant.weights)),
                options.out.string(), "use --layout trtllm");
  if (!options.hf_rules) throw Error("the family's config.json rules are needed to write a Hugging Face folder");
  return std::make_unique<HuggingfaceWriter>(options);
}

}  // namespace qg
