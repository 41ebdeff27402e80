// quantgrid synth: a random-weight checkpoint with a real model's exact shapes.
#include <fmt/format.h>

#include "checkpoint/synthetic.h"
#include "core/json_text.h"
#include "core/progress.h"
#include "grid/models.h"
#include "model/architecture.h"
#include "verb.h"

namespace qg {
namespace {

struct SynthFlags {
  std::string model, folder, dtype = "float16";
  SyntheticOptions options;
  // 0: as the model has it.
  int64_t layers = 0, hidden = 0, heads = 0, kv_heads = 0, head_dim = 0, ffn = 0, vocab = 0;
  bool json = false;
};

ModelShape shape_of(const SynthFlags& flags) {
  const KnownModel* known = find_known_model(flags.model);
  if (!known) {
    std::string names;
    for (const KnownModel& row : known_models()) names += (names.empty() ? "" : ", ") + row.name;
    throw Error("model \"" + flags.model + "\" is not known", "", "known are " + names);
  }
  ModelShape shape = known->shape;
  const auto replace = [](int64_t& number, int64_t flag) {
    if (flag > 0) number = flag;
  };
  replace(shape.layers, flags.layers);
  replace(shape.hidden, flags.hidden);
  replace(shape.heads, flags.heads);
  replace(shape.kv_heads, flags.kv_heads);
  replace(shape.head_dim, flags.head_dim);
  replace(shape.ffn, flags.ffn);
  replace(shape.vocab, flags.vocab);
  return shape;
}

ExitCode synth(SynthFlags flags) {
  const ModelTable table = make_model_table(shape_of(flags));
  flags.options.dtype = flags.dtype == "bfloat16" ? DType::bf16 : flags.dtype == "float32" ? DType::f32 : DType::f16;
  write_synthetic_model(table, hf_rules_of_family(table.shape.family), flags.options, flags.folder);
  const int64_t parameters = table.shape.linear_params() + table.shape.embedding_params();
  if (flags.json)
    fmt::print("{}\n",
               json_text(Json{{"out", flags.folder}, {"parameters", parameters}, {"seed", flags.options.seed}}, 2));
  else
    fmt::print("{}: {} in {}, {:.3f}e9 parameters, random weights of seed {}: good for speed, not for accuracy\n",
               flags.folder, flags.model, flags.dtype, static_cast<double>(parameters) * 1e-9, flags.options.seed);
  return ExitCode::done;
}

void declare_shape(CLI::App& command, SynthFlags& flags) {
  const auto number = [&](const char* name, int64_t& value, const char* what) {
    command.add_option(name, value, what)->check(CLI::PositiveNumber)->group("Shape, where it is not the model's");
  };
  number("--layers", flags.layers, "transformer layers");
  number("--hidden", flags.hidden, "width of the residual stream");
  number("--heads", flags.heads, "query heads");
  number("--kv-heads", flags.kv_heads, "heads of K and V");
  number("--head-dim", flags.head_dim, "width of a head");
  number("--ffn", flags.ffn, "width of the MLP");
  number("--vocab", flags.vocab, "vocabulary");
}

const RegisterVerb kSynth{
    {30, "synth", "A random-weight checkpoint with a real model's exact shapes",
     "quantgrid synth llama-3.1-8b /tmp/llama-8-layers --layers 8 --seed 1", [](CLI::App& command) {
       auto flags = std::make_shared<SynthFlags>();
       command.add_option("model", flags->model, "model whose shapes to take, such as llama-3.1-8b")->required();
       command.add_option("folder", flags->folder, "folder to make")->required();
       command.add_option("--seed", flags->options.seed, "the same seed makes the same bytes (default 0)");
       command.add_option("--dtype", flags->dtype, "float16, bfloat16 or float32 (default float16)")
           ->check(CLI::IsMember({"float16", "bfloat16", "float32"}));
       command
           .add_option("--outliers", flags->options.outliers, "channels that every norm amplifies by 20 (default 0)")
           ->check(CLI::NonNegativeNumber);
       command.add_flag("--json", flags->json, "print the result as JSON");
       declare_shape(command, *flags);
       return [flags] { return synth(*flags); };
     }}};

}  // namespace
}  // namespace qg
