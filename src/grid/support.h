#pragma once
// What a card and an engine make of a pair of formats, with a reason that a person understands.
#include <optional>
#include <string>
#include <string_view>

#include "core/format.h"
#include "grid/cards.h"
#include "grid/engines.h"

namespace qg {

// native: the card computes every operand format in hardware, or the format is meant to be unpacked (W4A16).
// emulated: a format that the card lacks is converted in software (FP8 on A100 and A10).
enum class SupportStatus { native, emulated, unsupported };
std::string_view to_string(SupportStatus status);
std::optional<SupportStatus> parse_support_status(std::string_view name);

struct Support {
  SupportStatus status = SupportStatus::native;
  std::string reason;  // one sentence
  std::string source;  // document or rule that says so
};

Support support(EngineId engine, const Card& card, WeightFormat weights, KvFormat kv);

struct Grid;
struct Case;
Support support(const Grid& grid, const Case& c, EngineId engine);

// What the silicon will do on the native engine; for plans. A record takes the path of the kernel that ran.
ComputePath expected_path(const Card& card, WeightFormat weights);

}  // namespace qg
