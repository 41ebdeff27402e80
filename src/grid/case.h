#pragma once
// One cell of the grid: this model, on this card, with these weights and this KV cache.
#include <array>
#include <optional>
#include <string>
#include <string_view>

#include "core/format.h"

namespace qg {

// Which part of the plan a case belongs to. `implied`: the FP16/FP16 baseline of a (model, card) that the grid does not
// list; it is run only when asked for, or when a verdict needs it.
enum class Section { must, baseline, int8, implied };
inline constexpr std::array kSections{Section::must, Section::baseline, Section::int8, Section::implied};
std::string_view to_string(Section section);
std::optional<Section> parse_section(std::string_view name);

struct Case {
  int number = 0;  // as in the grid file; 0 for an implied case
  Section section = Section::must;
  std::string model;  // "llama-3.2-3b"
  std::string gpu;    // card row: "a100"
  WeightFormat weights = WeightFormat::fp16;
  KvFormat kv = KvFormat::fp16;

  std::string id() const;  // names.h, case_id()
  bool is_fp16_baseline() const { return weights == WeightFormat::fp16 && kv == KvFormat::fp16; }
  bool operator==(const Case&) const = default;
};

}  // namespace qg
