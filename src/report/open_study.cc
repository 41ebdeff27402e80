#include "report/open_study.h"

#include <algorithm>
#include <set>

#include "core/error.h"
#include "report/assets.h"

namespace qg {
namespace {

void keep_engines(Results& results, const std::vector<std::string>& wanted) {
  const auto is_of = [](const std::string& engine, const std::string& name) {
    return engine == name || engine.starts_with(name + "/");
  };
  std::set<std::string> seen;
  for (const StoredAttempt& a : results.attempts) seen.insert(a.attempt.done.subject.engine);
  for (const std::string& name : wanted)
    if (std::none_of(seen.begin(), seen.end(), [&](const std::string& engine) { return is_of(engine, name); })) {
      std::string all;
      for (const std::string& engine : seen) all += (all.empty() ? "" : ", ") + engine;
      throw Error("there are no results of the engine \"" + name + "\"", "--engine",
                  all.empty() ? "the journals are empty" : "there are results of: " + all);
    }
  std::erase_if(results.attempts, [&](const StoredAttempt& a) {
    return std::none_of(wanted.begin(), wanted.end(),
                        [&](const std::string& name) { return is_of(a.attempt.done.subject.engine, name); });
  });
}

}  // namespace

Study open_study(const StudyFiles& files) {
  // The plan is compiled in, so that the program reports on it also where it was copied alone.
  Grid grid = files.grid.empty() ? parse_grid(kDefaultGrid, "trt-llm-45.toml") : load_grid(files.grid);
  Gates gates = grid.gates;
  if (files.max_ppl_ratio) gates.max_ppl_ratio = *files.max_ppl_ratio;
  if (files.max_kld_nats) gates.max_kld_nats = *files.max_kld_nats;
  Results results = load_results(files.results);
  if (!files.engines.empty()) keep_engines(results, files.engines);
  return make_study(std::move(results), std::move(grid), gates);
}

}  // namespace qg
