// Verbs of the plan that this version does not have yet: they say so instead of being unknown words.
#include "verb.h"

namespace qg {
namespace {

Verb absent(int order, const char* name, const char* summary, const char* example, const char* what,
            const char* instead) {
  return {order, name, summary, example, [name, what, instead](CLI::App& command) -> std::function<ExitCode()> {
            command.allow_extras();
            return [name, what, instead]() -> ExitCode {
              throw Error(std::string(what) + " is not in this version yet", std::string("quantgrid ") + name, instead,
                          ExitCode::cannot_here);
            };
          }};
}

const RegisterVerb kSubmit(
    absent(140, "submit", "The grid as array jobs of a cluster (not in this version yet)",
           "quantgrid submit grids/trt-llm-45.toml --slurm", "submitting the grid to a cluster",
           "`quantgrid plan GRID --emit DIR` writes a script per case, and `quantgrid merge` joins the journals"));

}  // namespace
}  // namespace qg
