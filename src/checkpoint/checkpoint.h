#pragma once
// A model folder, opened: whatever its layout, tensors come out by role and linear layers in one form (LinearWeights).
// Nothing is read from disk before it is asked for; a caller that goes layer by layer holds a layer.
#include <filesystem>
#include <memory>
#include <optional>

#include "checkpoint/hf_config.h"
#include "checkpoint/lineage.h"
#include "checkpoint/tensor_set.h"
#include "core/model_shape.h"
#include "core/quant_spec.h"
#include "core/tensor.h"

namespace qg {

enum class Layout { huggingface, trtllm, modelopt, compressed_tensors, autoawq };
std::string_view to_string(Layout layout);
std::optional<Layout> parse_layout(std::string_view name);

// What a recipe says of the folder itself; one GPU and the trtllm layout go without saying.
void describe_folder(Lineage& lineage, Layout layout, int64_t ranks);

class Checkpoint {
 public:
  virtual ~Checkpoint() = default;

  virtual Layout layout() const = 0;
  virtual const ModelTable& table() const = 0;
  virtual const QuantSpec& quant() const = 0;
  virtual DType dtype() const = 0;  // of the tensors that are not quantized: F16, BF16 or F32

  // The stored tensor; shape checked against the spec. A tied lm_head is not in the table: use the embedding.
  virtual Tensor tensor(const TensorSpec& spec) const = 0;
  // One fused linear layer: parts stacked along n. Safe from several threads.
  virtual LinearWeights linear(const LinearSpec& spec) const = 0;

  virtual const KvScales& kv_scales() const = 0;  // from the sidecar, or from inside where the layout fixes KV
  virtual const std::optional<Lineage>& lineage() const = 0;
  virtual const std::filesystem::path& folder() const = 0;
  virtual int64_t stored_bytes() const = 0;      // of all weight files
  virtual std::string weights_hash() const = 0;  // sha256 over names and bytes of all tensors; slow for big ones
  virtual const TensorSet* stored() const { return nullptr; }  // the files below; null when there are none
};

// Makes a folder tensor by tensor; nothing is visible under the final name before finish().
class CheckpointWriter {
 public:
  virtual ~CheckpointWriter() = default;
  virtual void write(const TensorSpec& spec, const Tensor& tensor) = 0;
  virtual void write(const LinearSpec& spec, const LinearWeights& weights) = 0;
  virtual void set_kv_scales(const KvScales& scales) = 0;
  virtual void set_lineage(const Lineage& lineage) = 0;
  // Copies tokenizer and generation files of `from` beside the weights.
  virtual void copy_side_files(const std::filesystem::path& from) = 0;
  virtual void write_side_file(const std::string& name, std::string_view text) = 0;  // another file beside the weights
  virtual void finish() = 0;  // throws Error when a tensor of the table was not written
};

// Of each layout, what the writer takes. Scales must be finite and above 0. Tensors that are not quantized may come as
// F16, BF16 or F32 and are stored in WriterOptions::dtype; a value that overflows there is an Error.

struct WriterOptions {
  std::filesystem::path out;
  Layout layout = Layout::trtllm;
  ModelTable table;
  QuantSpec quant;
  DType dtype = DType::f16;
  std::string architecture;         // "LlamaForCausalLM"
  std::optional<HfRules> hf_rules;  // the family's row; needed for all layouts but trtllm
  int64_t ranks = 1;                // GPUs that share a Layout::trtllm checkpoint (tensor parallel)
};
// Throws Error when the layout cannot hold what `quant` says, before anything is written.
std::unique_ptr<CheckpointWriter> create_checkpoint(const WriterOptions& options);

}  // namespace qg
