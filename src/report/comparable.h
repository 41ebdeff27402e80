#pragma once
// Which rows may be compared: those of the same checkpoint, and those that were measured by the same method.
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "record/record.h"
#include "report/texts.h"

namespace qg {

// Whether both rows are of the same original model, quantized by the same recipe.
bool same_checkpoint(const Record& a, const Record& b);

// How the speed of a throughput workload was measured. Its requests are all offered at once, so that ramp and tail
// count by how many there are; a steady window has neither.
struct Method {
  bool window = false;
  int64_t requests = 0;  // 0: in a window, which counts them, or not known
  auto operator<=>(const Method&) const = default;
};
// Empty for decoding, prefill and rates, whose names say all that their speed depends on.
std::optional<Method> method_of(const Record& speed);
std::string method_text(const Method& method, const Speaker& say);  // "steady window", "1,024 requests"

// The method of most of the rows; of several, that of the most requests, and a window last. Null rows are passed over.
// Empty when none has one.
std::optional<Method> common_method(const std::vector<const Record*>& rows);
// Whether rows were measured by different methods. What is not known is no difference.
bool methods_differ(const std::vector<const Record*>& rows);
bool methods_differ(const Method& a, const Method& b);

}  // namespace qg
