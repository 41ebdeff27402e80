#pragma once
// A checkpoint in another layout, for another number of GPUs, or with a fixed KV format. Codes are moved, never chosen
// again: what would need that is refused.
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace qg {

struct ConvertOptions {
  std::filesystem::path out;
  Layout layout = Layout::trtllm;
  std::optional<KvFormat> kv;  // fix the KV format; empty: as the source has it
  int64_t ranks = 0;           // trtllm: GPUs that share it; 0: as the source has it, 1 for other layouts
  std::string architecture;    // of the source, "LlamaForCausalLM"
  HfRules hf_rules;            // of its family
};

// Returns what a person should know of the result, a sentence each: scales that were rounded to the layout's type,
// K and V scales that became one. Throws Error, before a folder appears, when the layout would lose something.
std::vector<std::string> convert_checkpoint(const Checkpoint& from, const ConvertOptions& options);

}  // namespace qg
