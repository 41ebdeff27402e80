#include "run_server.h"

#include <fmt/format.h>

#include <algorithm>
#include <filesystem>
#include <optional>

#include "bench/load_record.h"
#include "core/error.h"
#include "core/json_text.h"
#include "core/log.h"
#include "core/open_files.h"
#include "core/progress.h"
#include "engines/openai_probe.h"
#include "grid/engines.h"
#include "record/case_key.h"

namespace qg {
namespace {

void check_name(const std::string& name) {
  const bool fine = name.size() <= 40 && std::all_of(name.begin(), name.end(), [](char c) {
                      return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '_';
                    });
  if (!fine) throw Error("\"" + name + "\" is no name for a server", "--server-name", "use a-z, 0-9, dots and dashes");
}

const Case& only_case(const std::vector<Case>& cases) {
  if (cases.size() == 1) return cases.front();
  throw Error(fmt::format("{} cases are chosen, but a server runs one model in one format", cases.size()),
              "--engine openai", fmt::format("choose one: --filter number={}", cases.front().number));
}

// What the server says of itself; part of the key of a result.
EngineRun identify(const ServerAddress& address, const ServerFlags& flags, ServerFacts& facts) {
  ClientOptions client;
  client.base = parse_base_url(address.url);
  client.api_key = address.api_key;
  client.stall_timeout_s = std::min(flags.stall_timeout_s, 60.0);
  facts.dialect.model = address.model;
  try {
    OpenAiClient asking(client);
    return identify_server(asking, facts);
  } catch (const Error& e) {
    if (e.code() == ExitCode::wrong_input) throw;
    return failed_run(CaseStatus::failed, "connect", e.what());
  }
}

void print_table(const Case& c, const std::vector<Workload>& workloads, const std::map<std::string, EngineRun>& runs) {
  fmt::print("\n{:<16} {:>12} {:>11} {:>11} {:>11}  {}\n", c.id(), "tok/s", "TTFT ms", "TPOT ms", "lag ms", "");
  for (const Workload& w : workloads) {
    const auto it = runs.find(w.name);
    if (it == runs.end()) {
      fmt::print("{:<16} {:>12}\n", w.name, "done before");
      continue;
    }
    const auto shown = [&](std::initializer_list<const char*> names) {
      for (const EngineMetric& metric : it->second.metrics)
        for (const char* name : names)
          if (metric.name == name) return fmt::format("{:.2f}", metric.value);
      return std::string("–");
    };
    fmt::print("{:<16} {:>12} {:>11} {:>11} {:>11}  {}\n", w.name, shown({"output_tok_s", "prefill_tok_s"}),
               shown({"ttft_ms_p50"}), shown({"tpot_ms_p50"}), shown({"client_lag_ms_p99"}), it->second.reason);
  }
  fmt::print("\n");
}

Json to_json(const std::map<std::string, EngineRun>& runs) {
  Json list = Json::array();
  for (const auto& [workload, run] : runs) {
    Json item{{"workload", workload}, {"status", to_string(run.status)}, {"reason", run.reason}};
    for (const EngineMetric& metric : run.metrics) item["metrics"][metric.name] = metric.value;
    list.push_back(item);
  }
  return list;
}

}  // namespace

ExitCode run_on_server(const Grid& grid, const std::vector<Case>& cases, const ServerRunOptions& options,
                       JournalWriter& journal) {
  check_name(options.name);
  const Case& c = only_case(cases);
  const GridModel& model = grid.model(c.model);
  const ServerAddress address = server_address(options.server, model.shape ? model.shape->vocab : 0);
  std::optional<Tokenizer> tokenizer;
  if (std::filesystem::exists(model.folder / "tokenizer.json")) tokenizer = Tokenizer::from_folder(model.folder);
  OpenAiLoadOptions load_with = load_options(options.server, tokenizer ? &*tokenizer : nullptr);

  ServerFacts facts;
  const EngineRun identified = identify(address, options.server, facts);
  info("{}: {} at {}", c.id(), facts.version.empty() ? "a server" : facts.version, address.url);
  Record common;
  common.case_id = c.id();
  if (c.number > 0) common.case_number = c.number;
  common.section = to_string(c.section);
  common.baseline_case_id = grid.baseline_of(c).id();
  common.model = c.model;
  common.weights = to_string(c.weights);
  common.kv = to_string(c.kv);
  common.target = common.measured_on = c.gpu;
  common.engine = engine_spec(EngineId::openai).key() + (options.name.empty() ? "" : "/" + options.name);
  common.engine_version = facts.version;
  if (tokenizer) common.tokenizer_sha = tokenizer->hash();

  std::map<std::string, EngineRun> runs;
  bool failed = false;
  for (const Workload& w : options.workloads) {
    Load load = load_of(w);
    load.seed = workload_seed(w.name);
    CaseIdentity id;
    id.model_sha = "server:" + facts.dialect.model;
    id.weights = common.weights;
    id.kv = common.kv;
    id.workload =
        fmt::format("{}: {} {}{}", w.name, describe(w), options.server.prompts, options.server.chat ? " chat" : "");
    id.engine = common.engine;
    id.engine_build = facts.version;
    id.target = id.measured_on = c.gpu;
    Record row = common;
    row.case_key = case_key(id);
    row.workload = w.name;
    describe_load(load, row);
    row.seed = static_cast<int64_t>(load.seed);
    row.started_at = utc_now();
    if (!options.rerun && journal.is_done(row.case_key)) continue;
    room_for_open_files(open_at_most(load) + 16);
    EngineRun run = identified;
    if (run.ok()) {
      Progress progress(fmt::format("{} {}", c.id(), w.name), total_output_tokens(load), "tokens");
      load_with.on_token = [&](int64_t tokens) { progress.advance(tokens); };
      run = measure_server(address, load, load_with);
    }
    journal.append_case(engine_done(row, run), engine_rows(row, run));
    if (!run.ok()) {
      failed = true;
      warn("{}, {}: {}", c.id(), w.name, run.reason);
    }
    runs[w.name] = std::move(run);
  }
  if (options.json)
    fmt::print("{}\n", json_text(to_json(runs), 2));
  else
    print_table(c, options.workloads, runs);
  return failed ? ExitCode::cases_failed : ExitCode::done;
}

}  // namespace qg
