#pragma once
// What every verb that runs a model does first: flags → opened model folder, tokenizer, executor, engine.
//
//   auto flags = std::make_shared<ModelFlags>();
//   declare_model_flags(command, *flags);
//   ...
//   Session session(*flags);                                 // opens the folder; reads no weights yet
//   std::unique_ptr<Engine> engine = session.make_engine();  // reads the weights
#include <CLI/CLI.hpp>
#include <memory>
#include <optional>
#include <string>

#include "checkpoint/checkpoint.h"
#include "core/format.h"
#include "runtime/cuda_executor.h"
#include "runtime/engine.h"
#include "runtime/executor.h"
#include "tokenizer/tokenizer.h"

namespace qg {

struct ModelFlags {
  std::string model;              // --model: a folder, or a name in the local Hugging Face cache
  std::string kv = "auto";        // --kv: fp16, fp8, int8; auto = what the folder fixes, else fp16
  std::string kv_scales;          // --kv-scales: a file of calibrated scales; empty = those of the model's folder
  std::string dtype = "fp16";     // --dtype: fp16, bf16; what a GPU computes unquantized models in
  std::string executor = "auto";  // --executor: cpu, cuda; auto = cuda in a build that has it, else cpu
  std::string tokenizer;          // --tokenizer: a folder; empty = the model's own
  std::string gpu;                // --gpu: index or UUID; empty = the first
  bool shared = false;            // --shared: run on a GPU that others are using
  std::string tuning;             // --tuning: a file, "none", or empty: the default one
  bool tune = false;              // --tune: measured anew
};

// Declares --model --kv --kv-scales --dtype --executor --tokenizer --gpu --shared --tuning --tune, the same for every
// verb.
void declare_model_flags(CLI::App& command, ModelFlags& flags);

// Sets what --tuning and --tune say.
void set_tuning(CudaExecutorOptions& options, const std::string& tuning, bool tune);

class Session {
 public:
  // Throws Error: the folder cannot be read, a flag has no meaning here, this build has no such executor (exit code 4).
  explicit Session(ModelFlags flags);
  // The same over a checkpoint that is open already; flags.model is not looked at.
  Session(ModelFlags flags, std::shared_ptr<const Checkpoint> checkpoint);

  const ModelFlags& flags() const { return flags_; }
  const std::shared_ptr<const Checkpoint>& checkpoint() const { return checkpoint_; }
  const ModelShape& shape() const { return checkpoint_->table().shape; }
  KvFormat kv() const { return kv_; }
  const std::string& executor_name() const { return executor_; }  // "cpu" or "cuda"
  int device() const { return device_; }                          // the GPU, as CUDA counts; 0 without one
  const Tokenizer& tokenizer();                                   // read on first use; throws Error

  // Room for `sequences` times the model's longest sequence, at most a quarter of the machine's memory.
  int64_t default_kv_bytes(int64_t sequences = 16) const;
  ExecutorOptions executor_options() const;  // the defaults that suit the executor
  // options.kv is set from --kv; a KV pool without a size (num_pages and kv_bytes both 0) gets default_kv_bytes() of
  // the machine's memory, or what is left of a GPU's.
  std::unique_ptr<Executor> make_executor(ExecutorOptions options = {}) const;
  // The executor's max_rows and deterministic are those of the engine's options.
  // request_tokens: no more run at once than such requests fit to their end, since who is preempted is computed twice.
  std::unique_ptr<Engine> make_engine(EngineOptions engine = {}, ExecutorOptions executor = {},
                                      int64_t request_tokens = 0) const;

 private:
  ModelFlags flags_;
  std::string executor_;
  int device_ = 0;
  KvFormat kv_ = KvFormat::fp16;
  std::shared_ptr<const Checkpoint> checkpoint_;
  std::optional<Tokenizer> tokenizer_;
};

}  // namespace qg
