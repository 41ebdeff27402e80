#include "session.h"

#include <algorithm>
#include <utility>

#include "bench/gpu_choice.h"
#include "checkpoint/kv_scales.h"
#include "checkpoint/stored_types.h"
#include "core/error.h"
#include "core/log.h"
#include "core/memory.h"
#include "model/open_model.h"
#include "runtime/compute_type.h"
#include "runtime/make_executor.h"

namespace qg {
namespace {

std::string choose_executor(const ModelFlags& flags) {
  if (has_cuda_executor() && flags.executor != "cpu") return "cuda";
  if (flags.executor == "cuda")
    throw Error("this build has no CUDA executor", "--executor cuda",
                "use quantgrid-cuda ('make gpu' builds it), or --executor cpu", ExitCode::cannot_here);
  if (!flags.gpu.empty() || flags.shared)
    throw Error(std::string(flags.gpu.empty() ? "--shared" : "--gpu") + " chooses a GPU, but the CPU executor runs", "",
                "leave it out, or use quantgrid-cuda ('make gpu' builds it)");
  return "cpu";
}

KvFormat choose_kv(const ModelFlags& flags, const Checkpoint& checkpoint) {
  if (flags.kv == "auto") return checkpoint.quant().fixed_kv.value_or(KvFormat::fp16);
  const std::optional<KvFormat> kv = parse_kv_format(flags.kv);
  if (!kv) throw Error("unknown KV format '" + flags.kv + "'", "--kv", "use auto, fp16, fp8 or int8");
  return *kv;
}

}  // namespace

void declare_model_flags(CLI::App& command, ModelFlags& flags) {
  command.add_option("--model", flags.model, "model folder, or the name of a model in the local Hugging Face cache")
      ->required();
  command.add_option("--kv", flags.kv, "KV cache: fp16, fp8, int8, or auto (what the folder fixes, else fp16)")
      ->check(CLI::IsMember({"auto", "fp16", "fp8", "int8"}))
      ->capture_default_str();
  command.add_option(
      "--kv-scales", flags.kv_scales,
      "calibration of the KV cache for a model without its own (`quantgrid quantize --kv-scales` makes it)");
  command
      .add_option(
          "--dtype", flags.dtype,
          "what a GPU computes unquantized models in: fp16, or bf16 (8 bits of precision instead of 11, and the "
          "range of float instead of 65504)")
      ->check(CLI::IsMember({"fp16", "bf16"}))
      ->capture_default_str();
  command.add_option("--executor", flags.executor, "cpu, cuda, or auto (cuda in a build that has it)")
      ->check(CLI::IsMember({"auto", "cpu", "cuda"}))
      ->capture_default_str();
  command.add_option("--tokenizer", flags.tokenizer, "folder with another tokenizer than the model's own");
  command.add_option("--gpu", flags.gpu,
                     "which GPU: index or UUID, as `quantgrid devices` shows them (default: the first)");
  command.add_flag("--shared", flags.shared, "run on a GPU that others are using");
  command.add_option(
      "--tuning", flags.tuning,
      "file of what was measured to be fastest on this GPU, or none: built-in choices (default: a file in "
      "~/.cache/quantgrid; what is missing is measured)");
  command.add_flag("--tune", flags.tune, "measure that anew");
}

void set_tuning(CudaExecutorOptions& options, const std::string& tuning, bool tune) {
  options.tuned = tuning != "none";
  if (options.tuned) options.tuning_file = tuning;
  options.tune_anew = tune;
  if (!options.tuned && tune) throw Error("--tune measures what --tuning none leaves out", "", "leave one of them out");
}

Session::Session(ModelFlags flags) : Session(flags, nullptr) {}

Session::Session(ModelFlags flags, std::shared_ptr<const Checkpoint> checkpoint) : flags_(std::move(flags)) {
  executor_ = choose_executor(flags_);
  if (executor_ == "cuda") device_ = choose_gpu(flags_.gpu, flags_.shared);
  const bool from_folder = !checkpoint;
  checkpoint_ = checkpoint ? std::move(checkpoint) : open_model(resolve_model(flags_.model));
  if (!flags_.kv_scales.empty()) checkpoint_ = with_kv_scales(checkpoint_, flags_.kv_scales);
  kv_ = choose_kv(flags_, *checkpoint_);
  if (from_folder && kv_ == KvFormat::fp8 && checkpoint_->kv_scales().fp8.empty())
    warn("{}: its FP8 KV cache was not calibrated, so scales are 1; `quantgrid quantize --kv-scales FILE` makes them",
         checkpoint_->folder().string());
  const DType computed = parse_compute_type(flags_.dtype);
  check_compute_type(computed, executor_, checkpoint_->quant(), checkpoint_->folder().string());
  if (const std::string note = f32_matrices_note(*checkpoint_, computed); executor_ == "cuda" && !note.empty())
    info("{}", note);
}

ExecutorOptions Session::executor_options() const {
  ExecutorOptions options;
  options.page_tokens = default_page_tokens(executor_);
  return options;
}

const Tokenizer& Session::tokenizer() {
  if (!tokenizer_)
    tokenizer_ = Tokenizer::from_folder(flags_.tokenizer.empty() ? checkpoint_->folder()
                                                                 : std::filesystem::path(flags_.tokenizer));
  return *tokenizer_;
}

int64_t Session::default_kv_bytes(int64_t sequences) const {
  const int64_t token_bytes = shape().kv_elements_per_token() * element_bytes(kv_);
  const int64_t tokens = std::max<int64_t>(shape().max_position, 4096);
  const int64_t most = physical_memory_bytes() / 4;
  // Divided, since the product of numbers from a file may not fit.
  return tokens > most / sequences / token_bytes ? most : sequences * tokens * token_bytes;
}

std::unique_ptr<Executor> Session::make_executor(ExecutorOptions options) const {
  options.kv = kv_;
  // A GPU's memory is known to its executor alone, which takes what is left of it.
  if (options.num_pages == 0 && options.kv_bytes == 0 && executor_ == "cpu") options.kv_bytes = default_kv_bytes();
  CudaExecutorOptions cuda;
  cuda.device = device_;
  cuda.dtype = parse_compute_type(flags_.dtype);
  set_tuning(cuda, flags_.tuning, flags_.tune);
  return qg::make_executor(executor_, checkpoint_, options, cuda);
}

std::unique_ptr<Engine> Session::make_engine(EngineOptions engine, ExecutorOptions executor,
                                             int64_t request_tokens) const {
  executor.max_rows = engine.max_rows;
  executor.max_pieces = engine.max_batch;
  executor.deterministic = engine.deterministic;
  std::unique_ptr<Executor> made = make_executor(executor);
  if (request_tokens > 0) {
    // The last token is given out and never computed.
    const int64_t pages_each = (request_tokens - 1 + made->page_tokens() - 1) / made->page_tokens();
    engine.max_batch = std::clamp<int64_t>(made->num_pages() / std::max<int64_t>(pages_each, 1), 1, engine.max_batch);
  }
  return std::make_unique<Engine>(std::move(made), engine);
}

}  // namespace qg
