#include "synthetic_model.h"

#include "checkpoint/byte_tokenizer.h"
#include "core/error.h"
#include "grid/models.h"
#include "model/architecture.h"
#include "quantize/recipe.h"
#include "quantize/synthetic_checkpoint.h"

namespace qg {

void declare_synthetic_flags(CLI::App& command, SyntheticFlags& flags) {
  auto* from =
      command.add_option("--weights-from", flags.from,
                         "synth:SEED: random weights in the shapes of the model that --model names; speed only");
  command.add_option("--weights", flags.weights, "with --weights-from: fp16, fp8, int4_awq or int8_sq")
      ->check(CLI::IsMember({"fp16", "fp8", "int4_awq", "int8_sq"}))
      ->needs(from);  // a folder's format is the folder's
}

std::shared_ptr<const Checkpoint> synthetic_checkpoint(const SyntheticFlags& flags, const std::string& model) {
  if (flags.from.empty()) return nullptr;
  constexpr std::string_view kPrefix = "synth:";
  const std::string digits = flags.from.starts_with(kPrefix) ? flags.from.substr(kPrefix.size()) : "";
  if (digits.empty() || digits.size() > 18 || digits.find_first_not_of("0123456789") != std::string::npos)
    throw Error("--weights-from is \"" + flags.from + "\"", "", "give synth:SEED, such as synth:1");
  const KnownModel* known = find_known_model(model);
  if (!known)
    throw Error("model \"" + model + "\" is not one whose shapes are known", "--model",
                "with --weights-from give a name such as llama-3.1-8b");
  const ModelTable table = make_model_table(known->shape);
  SyntheticOptions options;
  options.seed = std::stoull(digits);
  QuantSpec quant;
  quant.weights = *parse_weight_format(flags.weights);
  if (quant.weights != WeightFormat::fp16) {
    std::vector<int64_t> widths;
    for (const LinearSpec& linear : table.linears) widths.push_back(linear.k);
    quant = default_recipe(quant.weights).spec(widths);
    quant.prequant_scales = false;
  }
  return make_synthetic_checkpoint(table, quant, options);
}

Tokenizer synthetic_tokenizer(int64_t vocab) {
  const auto files = byte_tokenizer_files(vocab);
  if (files.empty())
    throw Error("a vocabulary of " + std::to_string(vocab) + " tokens has no room for one token for each byte");
  return Tokenizer::from_json(files.at("tokenizer.json"), files.at("tokenizer_config.json"), "the synthetic tokenizer");
}

}  // namespace qg
