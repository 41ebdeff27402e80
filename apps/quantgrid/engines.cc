// engines: what the grid can be run on, how each engine fixes its KV format, and which are installed here.
#include "grid/engines.h"

#include <fmt/format.h>

#include <memory>

#include "core/json_text.h"
#include "core/version.h"
#include "engines/run_installed.h"
#include "verb.h"

namespace qg {
namespace {

constexpr std::string_view kServer =
    "a server that is up: `quantgrid run GRID --engine openai --base-url http://HOST:PORT`";

// What is here of an engine, and what to do about it.
struct Here {
  bool installed = false;
  std::string version, state, install;
};

Here look(const EngineSpec& engine) {
  Here here;
  if (engine.id == EngineId::native) return {true, version(), "built in", ""};
  const EnginePrograms* programs = engine_programs(engine.id);
  if (!programs) return {false, "", std::string(kServer), ""};
  const InstalledEngine found = installed_engine(engine.id, std::filesystem::temp_directory_path());
  here.installed = found.program.has_value();
  here.version = found.version;
  here.install = programs->install;
  if (!here.installed)
    here.state = fmt::format("not installed ({} is not on the PATH); install: {}", programs->bench, programs->install);
  else if (found.version.empty())
    here.state = fmt::format("installed at {}, version unknown: {}", found.program->string(), found.problem);
  else if (!programs->is_known(found.version))
    here.state = fmt::format("{} {} is installed, but reports of {} are known; install: {}", programs->package,
                             found.version, programs->known, programs->install);
  else
    here.state = fmt::format("installed: {} {}", programs->package, found.version);
  return here;
}

Json describe(const EngineSpec& engine, const Here& here) {
  const auto or_null = [](std::string_view text) { return text.empty() ? Json(nullptr) : Json(text); };
  return {{"name", engine.name},
          {"backend", or_null(engine.backend)},
          {"label", engine.label},
          {"kv_rule", engine.kv_rule == KvRule::at_run_time ? "at_run_time" : "fixed_in_checkpoint"},
          {"layout", or_null(engine.layout)},
          {"installed", here.installed},
          {"version", or_null(here.version)},
          {"state", here.state},
          {"install", or_null(here.install)},
          {"note", engine.note}};
}

ExitCode show(bool json) {
  Json list = Json::array();
  for (const EngineSpec& engine : engines()) {
    const Here here = look(engine);
    if (json)
      list.push_back(describe(engine, here));
    else
      fmt::print("{}\n  --engine {}{}{}\n  {}\n  {}\n", engine.label, engine.name,
                 engine.backend.empty() ? "" : " --backend ", engine.backend, here.state, engine.note);
  }
  if (json)
    fmt::print("{}\n", json_text(list, 2));
  else
    fmt::print(
        "\n`quantgrid plan GRID --engine E` says what each engine supports, `quantgrid run GRID --engine E` runs "
        "it.\n");
  return ExitCode::done;
}

const RegisterVerb kVerb({.order = 40,
                          .name = "engines",
                          .summary = "the engines that a grid can be run on, and which are installed",
                          .example = "quantgrid engines",
                          .declare = [](CLI::App& command) -> std::function<ExitCode()> {
                            auto json = std::make_shared<bool>(false);
                            command.add_flag("--json", *json, "print JSON");
                            return [json] { return show(*json); };
                          }});

}  // namespace
}  // namespace qg
