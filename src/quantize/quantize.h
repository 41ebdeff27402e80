#pragma once
// Makes quantized checkpoints. One pass over the calibration text serves several of them; a layer at a time is read,
// quantized and written, so memory is a layer plus the calibration activations, whatever the model's size.
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"
#include "quantize/calibration.h"
#include "quantize/recipe.h"

namespace qg {

struct QuantizeOutput {
  Recipe recipe;
  std::filesystem::path out;
  Layout layout = Layout::trtllm;
  std::optional<KvFormat> fixed_kv;  // for layouts whose KV format is fixed when the checkpoint is made
  int64_t ranks = 1;                 // trtllm: GPUs that share the checkpoint
};

struct QuantizeJob {
  const Checkpoint* base = nullptr;
  std::string architecture;  // of the base, "LlamaForCausalLM"
  CalibrationText calibration;
  CalibrationOptions options;
  std::vector<QuantizeOutput> outputs;  // may be empty when kv_scales is not
  std::filesystem::path kv_scales;      // also write the KV cache's calibration to this file; empty: do not
  std::filesystem::path tokenizer;      // folder whose tokenizer the outputs get; empty: the base's
};

struct QuantizeReport {
  std::filesystem::path out;
  double seconds = 0;              // spent on this output's linear layers, without the pass over the text
  double mean_relative_error = 0;  // of the linear layers' outputs, on sampled calibration rows
  double worst_relative_error = 0;
  std::string worst_layer;  // "layers.3.mlp_act"
};

// Bytes that the job needs at its peak, beside mapped files: printed before work starts.
int64_t estimate_quantize_bytes(const QuantizeJob& job);

// Throws Error when the base is quantized already.
void require_sixteen_bits(const QuantizeJob& job);

// on_step is called kQuantizeSteps times a layer with what comes next; it may throw to stop, then nothing appears under
// an output's name. Finished layers stay in "OUT.journal" beside the first output until the job is done, and the same
// job goes on after them.
inline constexpr int64_t kQuantizeSteps = 4;
std::vector<QuantizeReport> quantize(const QuantizeJob& job, const std::function<void(const std::string&)>& on_step);

}  // namespace qg
