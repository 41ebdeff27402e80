#include "report/open_study.h"

#include "report/assets.h"

namespace qg {

Study open_study(const StudyFiles& files) {
  // The plan is compiled in, so that the program reports on it also where it was copied alone.
  Grid grid = files.grid.empty() ? parse_grid(kDefaultGrid, "trt-llm-45.toml") : load_grid(files.grid);
  Gates gates = grid.gates;
  if (files.max_ppl_ratio) gates.max_ppl_ratio = *files.max_ppl_ratio;
  if (files.max_kld_nats) gates.max_kld_nats = *files.max_kld_nats;
  return make_study(load_results(files.results), std::move(grid), gates);
}

}  // namespace qg
