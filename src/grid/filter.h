#pragma once
// --filter: which cases. "gpu=a100 & weights=int4_awq", "number=1-10 | section=baseline", "!(kv=fp8)", "number<=30".
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "grid/case.h"

namespace qg {

struct Grid;

// A parsed expression. Keys: number section model gpu weights kv id. `=` and `!=` take one value or several with
// commas; `number` also takes ranges (1-10) and < <= > >=. & before |, ! and parentheses as usual; words compare
// without case.
class Filter {
 public:
  Filter() = default;  // keeps every case
  // Throws Error with the expression, a caret under the trouble and the allowed values. `grid` gives the models and
  // cards that may be named.
  Filter(std::string_view expression, const Grid& grid);
  bool keeps(const Case& c) const { return !keep_ || keep_(c); }

 private:
  std::function<bool(const Case&)> keep_;
};

std::vector<Case> filtered(const std::vector<Case>& cases, const Filter& filter);

}  // namespace qg
