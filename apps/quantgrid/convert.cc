// quantgrid convert: a checkpoint whose KV format is fixed, as TensorRT-LLM's TensorRT backend needs it.
#include <fmt/format.h>

#include "checkpoint/trtllm.h"
#include "core/json.h"
#include "core/log.h"
#include "model/open_model.h"
#include "verb.h"

namespace qg {
namespace {

struct ConvertFlags {
  std::string model, out, layout = "trtllm", kv;
  int tensor_parallel = 1;
  bool json = false;
};

void check(const ConvertFlags& flags) {
  const std::optional<Layout> layout = parse_layout(flags.layout);
  if (!layout)
    throw Error("layout \"" + flags.layout + "\" is not known", "--layout",
                "known are trtllm, modelopt, compressed-tensors and autoawq");
  if (*layout != Layout::trtllm)
    throw Error("converting to layout " + flags.layout + " is not there yet", "--layout", "convert to trtllm",
                ExitCode::cannot_here);
  if (flags.tensor_parallel != 1)
    throw Error("checkpoints for " + std::to_string(flags.tensor_parallel) + " GPUs are not there yet", "--tp",
                "use --tp 1", ExitCode::cannot_here);
  if (flags.kv.empty())
    throw Error("there is nothing to convert", "", "say --kv fp8 or --kv int8 to fix the KV format");
}

ExitCode convert(const ConvertFlags& flags) {
  check(flags);
  const std::optional<KvFormat> kv = parse_kv_format(flags.kv);
  if (!kv) throw Error("KV format \"" + flags.kv + "\" is not known", "--kv", "give fp8 or int8");
  const auto checkpoint = open_model(resolve_model(flags.model));
  if (checkpoint->layout() != Layout::trtllm)
    throw Error("converting from layout " + std::string(to_string(checkpoint->layout())) + " is not there yet",
                flags.model, "give a TensorRT-LLM layout folder, as `quantgrid quantize` makes it",
                ExitCode::cannot_here);
  if (*kv == KvFormat::fp8 && checkpoint->kv_scales().fp8.empty())
    warn("{}: no calibrated fp8 KV scales; all are written as 1, as TensorRT-LLM's own converter does", flags.model);
  write_fixed_kv(*checkpoint, *kv, flags.out);
  if (flags.json)
    fmt::print("{}\n", Json{{"out", flags.out}, {"layout", "trtllm"}, {"kv", flags.kv}}.dump(2));
  else
    fmt::print("{}: KV format fixed to {}\n", flags.out, flags.kv);
  return ExitCode::done;
}

const RegisterVerb kConvert{{55, "convert", "A checkpoint with a fixed KV format, for TensorRT-LLM's TensorRT backend",
                             "quantgrid convert --model llama-3.1-8b-instruct-trtllm-ckpt-wq_fp8-kv_fp16 \\\n"
                             "      --out llama-3.1-8b-instruct-trtllm-ckpt-wq_fp8-kv_fp8 --kv fp8",
                             [](CLI::App& command) {
                               auto flags = std::make_shared<ConvertFlags>();
                               command.add_option("--model", flags->model, "checkpoint folder (-kv_fp16)")->required();
                               command.add_option("--out", flags->out, "folder to make")->required();
                               command.add_option("--layout", flags->layout, "layout to make (default trtllm)");
                               command.add_option("--kv", flags->kv, "KV format to fix: fp8 or int8");
                               command.add_option("--tp", flags->tensor_parallel,
                                                  "GPUs that share the checkpoint (default 1)");
                               command.add_flag("--json", flags->json, "print the result as JSON");
                               return [flags] { return convert(*flags); };
                             }}};

}  // namespace
}  // namespace qg
