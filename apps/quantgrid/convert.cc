// quantgrid convert: a checkpoint in another layout, for several GPUs, or with a fixed KV format.
#include "checkpoint/convert.h"

#include <fmt/format.h>

#include "core/json_text.h"
#include "core/log.h"
#include "model/architecture.h"
#include "model/open_model.h"
#include "verb.h"

namespace qg {
namespace {

struct ConvertFlags {
  std::string model, out, layout, kv;
  int64_t ranks = 0;
  bool json = false;
};

ConvertOptions options_of(const ConvertFlags& flags, const Checkpoint& from) {
  ConvertOptions options;
  options.out = flags.out;
  options.layout = flags.layout.empty() ? from.layout() : *parse_layout(flags.layout);
  if (flags.layout.empty() && from.layout() == Layout::huggingface) options.layout = Layout::trtllm;
  if (!flags.kv.empty()) options.kv = parse_kv_format(flags.kv);
  options.ranks = flags.ranks;
  const std::string& family = from.table().shape.family;
  options.architecture = architecture_of_family(family);
  options.hf_rules = hf_rules_of_family(family);
  if (options.layout == from.layout() && !options.kv && flags.ranks == 0)
    throw Error("there is nothing to convert: the folder is in the " + std::string(to_string(from.layout())) +
                    " layout already",
                flags.model, "say --layout L for another layout, --kv fp8|int8 to fix the KV format, or --tp N");
  return options;
}

ExitCode convert(const ConvertFlags& flags) {
  const auto checkpoint = open_model(resolve_model(flags.model));
  const ConvertOptions options = options_of(flags, *checkpoint);
  const std::vector<std::string> notes = convert_checkpoint(*checkpoint, options);
  for (const std::string& note : notes) warn("{}: {}", flags.out, note);
  const std::string layout(to_string(options.layout));
  if (flags.json) {
    fmt::print("{}\n", json_text(Json{{"out", flags.out},
                                      {"layout", layout},
                                      {"kv", options.kv ? Json(flags.kv) : Json(nullptr)},
                                      {"tp", options.ranks},
                                      {"notes", notes}},
                                 2));
    return ExitCode::done;
  }
  fmt::print("{}: layout {}{}{}\n", flags.out, layout,
             options.kv ? fmt::format(", KV format fixed to {}", flags.kv) : "",
             options.ranks > 1 ? fmt::format(", for {} GPUs", options.ranks) : "");
  return ExitCode::done;
}

const RegisterVerb kConvert{
    {55, "convert",
     "A checkpoint in another layout, for several GPUs, or with a fixed KV format.\n"
     "Codes are moved, never chosen again: where a layout would lose something, it says what and makes nothing.",
     "quantgrid convert --model llama-3.1-8b-instruct-trtllm-ckpt-wq_fp8-kv_fp16 \\\n"
     "      --out llama-3.1-8b-instruct-fp8-compressed-tensors --layout compressed-tensors",
     [](CLI::App& command) {
       auto flags = std::make_shared<ConvertFlags>();
       command.add_option("--model", flags->model, "checkpoint folder, of any layout that is read")->required();
       command.add_option("--out", flags->out, "folder to make")->required();
       command.add_option("--layout", flags->layout, "layout to make (default: the folder's own)")
           ->check(CLI::IsMember({"huggingface", "trtllm", "modelopt", "compressed-tensors", "autoawq"}));
       command
           .add_option("--kv", flags->kv, "KV format to fix inside the checkpoint (TensorRT back end: one folder each)")
           ->check(CLI::IsMember({"fp8", "int8"}));
       command.add_option("--tp", flags->ranks, "trtllm: GPUs that share the checkpoint (default 1)")
           ->check(CLI::Range(1, 64));
       command.add_flag("--json", flags->json, "print the result as JSON");
       return [flags] { return convert(*flags); };
     }}};

}  // namespace
}  // namespace qg
