#pragma once
// Names that people see in file names, tables and JSON: one function makes each, one parses it.
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/format.h"
#include "grid/case.h"

namespace qg {

// "llama-3.2-3b/a100/int4_awq/kv_fp8"
std::string case_id(std::string_view model, std::string_view gpu, WeightFormat weights, KvFormat kv);
struct CaseId {
  std::string model, gpu;
  WeightFormat weights;
  KvFormat kv;
  bool operator==(const CaseId&) const = default;
};
std::optional<CaseId> parse_case_id(std::string_view id);  // empty when it is not one

// "llama-3.2-3b-instruct-trtllm-ckpt-wq_fp8-kv_fp16"; stem "llama-3.2-3b-instruct"
std::string checkpoint_name(std::string_view stem, WeightFormat weights, KvFormat kv);
struct CheckpointName {
  std::string stem;
  WeightFormat weights;
  KvFormat kv;
  bool operator==(const CheckpointName&) const = default;
};
std::optional<CheckpointName> parse_checkpoint_name(std::string_view name);

// Ids of models, cards and stems: lower-case letters, digits, '.', '_' and '-', starting with a letter or digit, at
// most 64 characters. They become parts of file names.
bool is_valid_name(std::string_view name);

// The candidate nearest to `word` when it is near enough to be a slip of the keyboard; otherwise empty.
std::string nearest_name(std::string_view word, const std::vector<std::string>& candidates);

}  // namespace qg
