#pragma once
// What the checkpoints of all layouts share: a folder with tensors, a lineage and KV scales beside them.
#include <set>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace qg {

class TensorCheck;

class FolderCheckpoint : public Checkpoint {
 public:
  FolderCheckpoint(std::filesystem::path folder, ModelTable table, TensorSet tensors)
      : folder_(std::move(folder)),
        table_(std::move(table)),
        tensors_(std::move(tensors)),
        lineage_(read_lineage(folder_)) {}

  const ModelTable& table() const override { return table_; }
  const QuantSpec& quant() const override { return quant_; }
  DType dtype() const override { return dtype_; }
  const KvScales& kv_scales() const override { return kv_scales_; }
  const std::optional<Lineage>& lineage() const override { return lineage_; }
  const std::filesystem::path& folder() const override { return folder_; }
  int64_t stored_bytes() const override { return tensors_.file_bytes(); }
  std::string weights_hash() const override { return tensors_.hash(); }
  const TensorSet* stored() const override { return &tensors_; }

 protected:
  // Hugging Face's names, tied embeddings. Some writers store the shared matrix twice; that is harmless only when both
  // are the same: otherwise a problem of `check`.
  void check_tied_head(TensorCheck& check) const;
  // Hugging Face's names: old files carry the RoPE frequencies, which follow from config.json.
  void allow_rope_frequencies(TensorCheck& check) const;

  std::filesystem::path folder_;
  ModelTable table_;
  TensorSet tensors_;
  std::optional<Lineage> lineage_;
  QuantSpec quant_;
  DType dtype_ = DType::f16;
  KvScales kv_scales_;
};

// Collects what is wrong with a folder's tensors, so that the error names the first and counts the rest.
class TensorCheck {
 public:
  explicit TensorCheck(const TensorSet& tensors) : tensors_(tensors) {}

  // A tensor that must be there. `dtypes`: those allowed.
  void expect(const std::string& name, const Shape& shape, const std::vector<DType>& dtypes);
  void allow(const std::string& name) { known_.insert(name); }  // may be there
  void problem(std::string text) { problems_.push_back(std::move(text)); }
  // Throws Error when something was missing, of the wrong shape or dtype, or unknown.
  void finish(const std::string& folder);

 private:
  const TensorSet& tensors_;
  std::set<std::string> known_;
  std::vector<std::string> problems_;
};

inline const std::vector<DType> kPlainTypes{DType::f16, DType::bf16, DType::f32};

// `tensor` in dtype `to`, itself where it is that already. Throws Error naming `where` when a finite value overflows.
Tensor convert_dtype(const Tensor& tensor, DType to, const std::string& where);

// Rows [begin, begin + rows) of a matrix, as a view.
Tensor row_range(const Tensor& matrix, int64_t begin, int64_t rows);

// Where kv_scales.safetensors lies beside model.safetensors: an index that names the latter alone. vLLM and SGLang take
// every .safetensors file of a folder without an index for the model's, and end at the first name that is none of its.
// entries: the tensors of model.safetensors.
void write_index_beside_kv_scales(const std::filesystem::path& folder, const std::vector<TensorEntry>& entries);

// bos_token_id, eos_token_id and pad_token_id as a model's config.json or else its generation_config.json states them.
// Engines read them there: without them transformers takes Llama 2's, and SGLang ends a reply at token 2.
Json token_ids_of(const std::filesystem::path& folder);

// Copies tokenizer and generation files, where they exist.
void copy_side_files(const std::filesystem::path& from, const std::filesystem::path& to);

}  // namespace qg
