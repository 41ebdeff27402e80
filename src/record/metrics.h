#pragma once
// The metrics that a row may carry: name, unit and meaning, spelled once.
#include <string_view>
#include <vector>

namespace qg {

enum class Better { more, less, neither };

struct MetricSpec {
  std::string_view name;   // "ttft_ms_p50"
  std::string_view unit;   // "ms"
  std::string_view stat;   // "p50"
  std::string_view suite;  // speed | accuracy | memory | energy | quantize
  std::string_view phase;  // prefill | decode | e2e | ""
  Better better;
  std::string_view meaning;
};

const std::vector<MetricSpec>& metrics();
const MetricSpec* find_metric(std::string_view name);  // null when there is none

}  // namespace qg
