#include "checkpoint/checkpoint.h"

#include <array>

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

std::unique_ptr<CheckpointWriter> create_checkpoint(const WriterOptions& options) {
  switch (options.layout) {
    case Layout::huggingface:
      return create_huggingface(options);
    case Layout::trtllm:
      return create_trtllm(options);
    default:
      break;
  }
  throw Error("layout " + std::string(to_string(options.layout)) + " is not written yet", options.out.string(),
              "use --layout trtllm", ExitCode::cannot_here);
}

}  // namespace qg
