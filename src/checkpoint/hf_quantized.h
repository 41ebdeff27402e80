#pragma once
// Quantized folders with Hugging Face names: config.json, model*.safetensors with one matrix per projection, and a
// description of the quantization. What differs between such layouts is a row: HfQuantLayout, one file each
// (modelopt.cc, compressed_tensors.cc, autoawq.cc). Names, shapes and packing: docs/checkpoints.md.
#include <functional>
#include <memory>
#include <utility>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace qg {

// One tensor of a projection ("model.layers.0.mlp.up_proj" + suffix). Writers differ a little: what is written is the
// first dtype and the first shape; all of those listed are read.
struct PartTensor {
  std::string suffix;
  std::vector<DType> dtypes;
  std::vector<Shape> shapes;
  bool optional = false;  // may be missing when read
};

// A projection on its way: a part of `spec`, of out features `rows`.
struct PartSpec {
  const LinearSpec& spec;
  int64_t rows;
  std::string name;  // "model.layers.0.self_attn.q_proj"
};

using NamedTensors = std::vector<std::pair<std::string, Tensor>>;
using GetTensor = std::function<Tensor(const std::string& suffix)>;  // empty where the tensor is optional and missing

class HfQuantLayout {
 public:
  virtual ~HfQuantLayout() = default;
  virtual Layout layout() const = 0;

  // The quantization that the folder's files state. Throws Error on one that we do not run, naming it.
  virtual QuantSpec parse(const Json& config, const std::filesystem::path& folder) const = 0;
  // Throws Error when the layout cannot hold `quant` for a model whose other tensors are `dtype`.
  virtual void check(const QuantSpec& quant, DType dtype) const = 0;
  // Adds the quantization to config.json; returns further files, by name.
  virtual std::vector<std::pair<std::string, Json>> describe(const QuantSpec& quant, Json& config) const = 0;

  virtual std::vector<PartTensor> tensors(const PartSpec& part, const QuantSpec& quant, DType dtype) const = 0;
  // Tensors by suffix. Throws Error when the layout cannot hold the weights.
  virtual NamedTensors encode(const PartSpec& part, const LinearWeights& weights, const QuantSpec& quant,
                              DType dtype) const = 0;
  virtual LinearWeights decode(const PartSpec& part, const QuantSpec& quant, const GetTensor& get) const = 0;

  // Names of a layer's K and V scale and their shape as written; empty names: the layout has none.
  struct KvNames {
    std::string k, v;
    Shape shape;
  };
  virtual KvNames kv_names(const std::string& attention) const = 0;  // "model.layers.0.self_attn"
};

const HfQuantLayout& modelopt_layout();
const HfQuantLayout& compressed_tensors_layout();
const HfQuantLayout& autoawq_layout();
// The row of a layout; throws Error when it is not one of these.
const HfQuantLayout& hf_quant_layout(Layout layout);

// `table`: of the folder's config.json. Throws Error when tensors are missing, extra, or of another shape or dtype.
std::unique_ptr<Checkpoint> open_hf_quantized(const std::filesystem::path& folder, const HfQuantLayout& layout,
                                              const Json& config, ModelTable table);
std::unique_ptr<CheckpointWriter> create_hf_quantized(const WriterOptions& options);

// Pieces that the layouts share.

// Throws Error naming the projection when a scale is not finite, below 0, or 0 (which a group of zeros may have when
// read: zero_allowed).
void check_part_scales(const Tensor& scales, const PartSpec& part, const std::string& what, bool zero_allowed = false);
// The scale that `get` yields as F32 of `shape`, checked.
Tensor read_part_scale(const PartSpec& part, const GetTensor& get, const std::string& suffix, Shape shape);
// Throws Error when `tensor` is there: what the layout has no place for, and why.
void refuse_part_tensor(const Tensor& tensor, const PartSpec& part, const std::string& what, const std::string& why);
// The tensor in another shape of as many elements.
Tensor in_shape(Tensor tensor, Shape shape);
// Throws Error when a list of modules left unquantized names more than lm_head, the embedding and norms: a model that
// is quantized in part is not run. `names` may hold patterns ("re:.*lm_head", "*lm_head").
void check_ignored_modules(const Json& names, const std::string& where);

}  // namespace qg
