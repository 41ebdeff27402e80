// Any bytes as a grid file: it is read and planned, or qg::Error says why not.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "core/error.h"
#include "grid/commands.h"
#include "grid/filter.h"
#include "grid/names.h"
#include "grid/plan.h"
#include "grid/plan_text.h"

namespace {

void use(const qg::Grid& grid, std::string_view text) {
  for (const qg::Case& c : grid.cases) {
    const auto id = qg::parse_case_id(c.id());
    if (!id || id->model != c.model || id->gpu != c.gpu) std::abort();
  }
  if (grid.cases.size() > 64) return;  // large grids are only read: planning them is slow under a sanitizer
  qg::PlanOptions options;
  options.engine = qg::EngineId::trtllm_tensorrt;
  options.machine.memory_bytes = 8'000'000'000;
  const auto rows = qg::make_plan(grid, grid.cases, options);
  qg::to_json(rows).dump();
  qg::plan_table(grid, rows, options);
  qg::index_table(qg::plan_index(rows));
  qg::case_script(grid, rows.front(), options);
  // The title, and the file itself, as filter expressions.
  for (const std::string_view expression : {std::string_view(grid.title), text.substr(0, 200)}) {
    try {
      qg::filtered(grid.cases, qg::Filter(expression, grid));
    } catch (const qg::Error&) {
    }
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    use(qg::parse_grid(text, "fuzz/grid.toml"), text);
  } catch (const qg::Error&) {
  }
  return 0;
}
