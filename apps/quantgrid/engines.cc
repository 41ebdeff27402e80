// engines: what the grid can be run on, and how each engine fixes its KV format.
#include "grid/engines.h"

#include <fmt/format.h>

#include <memory>

#include "core/json.h"
#include "verb.h"

namespace qg {
namespace {

constexpr std::string_view kScripts = "by script: `quantgrid plan GRID --engine E --emit DIR` writes its commands";
constexpr std::string_view kNotYet = "planned only: this version of Quantgrid does not drive it yet";

std::string_view state_of(EngineId id) {
  if (id == EngineId::native) return "built in";
  return id == EngineId::openai ? kNotYet : kScripts;
}

Json describe(const EngineSpec& engine) {
  const bool ours = engine.id == EngineId::native;
  return {{"name", engine.name},
          {"backend", engine.backend.empty() ? Json(nullptr) : Json(engine.backend)},
          {"label", engine.label},
          {"kv_rule", engine.kv_rule == KvRule::at_run_time ? "at_run_time" : "fixed_in_checkpoint"},
          {"layout", engine.layout.empty() ? Json(nullptr) : Json(engine.layout)},
          {"installed", ours},
          {"state", state_of(engine.id)},
          {"note", engine.note}};
}

ExitCode show(bool json) {
  Json list = Json::array();
  for (const EngineSpec& engine : engines()) list.push_back(describe(engine));
  if (json) {
    fmt::print("{}\n", list.dump(2));
    return ExitCode::done;
  }
  for (size_t i = 0; i < list.size(); ++i) {
    const EngineSpec& engine = engines()[i];
    fmt::print("{}\n  --engine {}{}{}\n  {}\n  {}\n", engine.label, engine.name,
               engine.backend.empty() ? "" : " --backend ", engine.backend, list[i]["state"].get<std::string>(),
               engine.note);
  }
  fmt::print("\n`quantgrid plan GRID --engine E` says what each engine supports, today.\n");
  return ExitCode::done;
}

const RegisterVerb kVerb({.order = 40,
                          .name = "engines",
                          .summary = "the engines that a grid can be run on",
                          .example = "quantgrid engines",
                          .declare = [](CLI::App& command) -> std::function<ExitCode()> {
                            auto json = std::make_shared<bool>(false);
                            command.add_flag("--json", *json, "print JSON");
                            return [json] { return show(*json); };
                          }});

}  // namespace
}  // namespace qg
