#include "checkpoint/checkpoint.h"

#include <array>

#include "checkpoint/hf_quantized.h"
#include "checkpoint/huggingface.h"
#include "checkpoint/trtllm.h"
#include "core/error.h"

namespace qg {
namespace {

constexpr std::array<std::pair<Layout, std::string_view>, 5> kNames{{{Layout::huggingface, "huggingface"},
                                                                     {Layout::trtllm, "trtllm"},
                                                                     {Layout::modelopt, "modelopt"},
                                                                     {Layout::compressed_tensors, "compressed-tensors"},
                                                                     {Layout::autoawq, "autoawq"}}};

}  // namespace

std::string_view to_string(Layout layout) {
  for (const auto& [value, name] : kNames)
    if (value == layout) return name;
  return "unknown";
}

std::optional<Layout> parse_layout(std::string_view name) {
  for (const auto& [value, text] : kNames)
    if (text == name) return value;
  return {};
}

void describe_folder(Lineage& lineage, Layout layout, int64_t ranks) {
  lineage.recipe.erase("layout");
  lineage.recipe.erase("ranks");
  if (layout != Layout::trtllm) lineage.recipe["layout"] = std::string(to_string(layout));
  if (ranks != 1) lineage.recipe["ranks"] = ranks;
}

std::unique_ptr<CheckpointWriter> create_checkpoint(const WriterOptions& options) {
  if (options.layout == Layout::trtllm) return create_trtllm(options);
  if (options.ranks != 1)
    throw Error("only the trtllm layout has a file per GPU; others are split by the engine that loads them", "--tp",
                "leave --tp out");
  if (options.layout == Layout::huggingface) return create_huggingface(options);
  return create_hf_quantized(options);
}

}  // namespace qg
