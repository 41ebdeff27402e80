#include "engines/run_commands.h"

#include <fmt/format.h>

#include <chrono>
#include <fstream>

#include "core/error.h"
#include "core/file.h"
#include "core/file_lock.h"
#include "core/interrupt.h"
#include "core/log.h"
#include "engines/run_card.h"
#include "engines/run_figures.h"
#include "engines/run_folder.h"
#include "engines/run_installed.h"
#include "engines/run_log.h"
#include "engines/run_server.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

constexpr int64_t kMaxReportBytes = int64_t{64} << 20;
constexpr int64_t kMaxLogBytes = int64_t{256} << 20;
constexpr double kDyingSeconds = 4;  // between the first broken stream of a server that crashes and its end

double seconds_since(std::chrono::steady_clock::time_point start) {
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

EngineRun as_run(const RunEnd& end, const std::string& what) {
  return failed_run(end.status, end.code, what.empty() ? end.reason : what + ": " + end.reason);
}

class CommandDriver : public EngineDriver {
 public:
  CommandDriver(EngineId id, DriverOptions options)
      : id_(id), programs_(*engine_programs(id)), options_(std::move(options)) {}

  EngineRun check() override;
  std::string version() const override { return version_; }
  EngineRun prepare(const EngineCase& e) override;
  EngineRun run(const EngineCase& e, const Workload& workload) override;
  void finish() noexcept override {
    server_.reset();
    lost_server_ = false;
  }

 private:
  // Starts a command of the case; `log` receives what the engine prints.
  ProcessResult start(const CommandLine& command, const fs::path& log_file, double limit_s, EngineLog& log) const;
  EngineRun make_checkpoint(const EngineCase& e) const;
  EngineRun build(const EngineCase& e, const CommandLine& command) const;
  EngineRun bench(const EngineCase& e, const Workload& workload) const;
  EngineRun start_server(const EngineCase& e);
  EngineRun served(const EngineCase& e, const Workload& workload);
  EngineReport read_report(const BenchRun& run, const Workload& workload) const;

  EngineId id_;
  EnginePrograms programs_;
  DriverOptions options_;
  std::string version_;
  std::unique_ptr<EngineServer> server_;
  bool lost_server_ = false;  // it was up and is no more: the next workload starts it again
};

ProcessResult CommandDriver::start(const CommandLine& command, const fs::path& log_file, double limit_s,
                                   EngineLog& log) const {
  ProcessSpec spec;
  spec.argv = command.argv;
  spec.log = log_file;
  spec.limit_s = limit_s;
  spec.environment = card_environment(options_.gpu);
  spec.on_line = [&log](std::string_view line) { return log.take_line(line); };
  ProcessResult result = run_process(std::move(spec));
  stop_if_interrupted("what was measured is in the journal, and what was built is kept");
  return result;
}

EngineRun CommandDriver::check() {
  const InstalledEngine here = installed_engine(id_, options_.scratch);
  version_ = here.version;
  const std::string install = fmt::format("install it: {}", programs_.install);
  if (!here.program)
    return failed_run(CaseStatus::failed, "not_installed",
                      fmt::format("{} is not on the PATH; {}", programs_.bench, install));
  if (options_.any_version) return {};
  if (version_.empty())
    return failed_run(CaseStatus::failed, "unknown_version",
                      fmt::format("the version of {} is not known: {}; --attempt runs it all the same",
                                  programs_.package, here.problem));
  if (!programs_.is_known(version_))
    return failed_run(CaseStatus::failed, "wrong_version",
                      fmt::format("{} {} is installed, reports of {} are known; {}, or --attempt this one",
                                  programs_.package, version_, programs_.known, install));
  return {};
}

EngineRun CommandDriver::make_checkpoint(const EngineCase& e) const {
  if (e.checkpoint == e.original || fs::exists(e.checkpoint) || !e.make_checkpoint || !fs::exists(e.original))
    return {};
  CommandLine command = *e.make_checkpoint;
  if (!options_.quantgrid.empty()) command.argv[0] = options_.quantgrid;
  // Other cards' runs on this file system may want the same folder.
  fs::create_directories(e.checkpoint.parent_path());
  const FileLock lock(e.checkpoint.parent_path() / ("." + e.checkpoint.filename().string() + ".lock"),
                      "making this checkpoint");
  if (fs::exists(e.checkpoint)) return {};
  info("{}: making {}", e.c.id(), e.checkpoint.string());
  EngineLog log;
  const fs::path log_file = e.case_folder() / "checkpoint.log";
  const ProcessResult result = start(command, log_file, options_.build_limit_s, log);
  if (result.ended_well() && fs::is_directory(e.checkpoint)) return {};
  RunEnd end = judge_end(result, log, options_.build_limit_s);
  if (end.status == CaseStatus::ok) end = {CaseStatus::failed, "no_checkpoint", "no folder came of it"};
  EngineRun run = as_run(end, fmt::format("the checkpoint {} could not be made", e.checkpoint.filename().string()));
  run.error_code = "no_checkpoint";
  return run;
}

EngineRun CommandDriver::build(const EngineCase& e, const CommandLine& command) const {
  const fs::path folder = e.engine_folder(), engine = folder / "rank0.engine", done = folder / "build.done",
                 command_file = folder / "build.command", seconds_file = folder / "build.seconds";
  std::string words;
  for (const std::string& word : command.argv) words += printf_q(word) + " ";
  EngineRun run;
  const bool is_built =
      fs::exists(done) && fs::exists(engine) && fs::exists(command_file) && read_file(command_file) == words;
  if (!is_built) {
    fs::create_directories(folder);
    fs::remove(done);
    fs::remove(engine);
    info("{}: building the engine", e.c.id());
    EngineLog log;
    const ProcessResult result = start(command, folder / "build.log", options_.build_limit_s, log);
    RunEnd end = judge_end(result, log, options_.build_limit_s);
    if (end.status == CaseStatus::ok && !fs::exists(engine))
      end = {CaseStatus::failed, "no_engine", fmt::format("{} left no {}", command.argv[0], engine.string())};
    if (end.status != CaseStatus::ok) return as_run(end, "the engine could not be built");
    write_file(seconds_file, fmt::format("{:.3f}\n", result.seconds));
    write_file(folder / "build.bytes", fmt::format("{}\n", fs::file_size(engine)));
    write_file(command_file, words);
    write_file(done, "");
  }
  std::ifstream seconds_text(seconds_file);
  double seconds = 0;
  seconds_text >> seconds;
  if (seconds > 0) run.metrics.push_back({"engine_build_s", seconds});
  run.metrics.push_back({"engine_bytes", static_cast<double>(fs::file_size(engine))});
  return run;
}

EngineRun CommandDriver::prepare(const EngineCase& e) {
  const auto begin = std::chrono::steady_clock::now();
  EngineRun run;
  try {
    run = make_checkpoint(e);
    if (!run.ok()) return run;
    if (const std::string problem = folder_problem(e); !problem.empty())
      return failed_run(CaseStatus::failed, "wrong_checkpoint", problem);
    if (programs_.package == "tensorrt_llm") {
      fs::create_directories(e.tools);
      write_file(e.tools / kTokensProgram, tokens_program());
    }
    if (const auto command = build_command(e)) run = build(e, *command);
    if (run.ok() && options_.served_load)
      if (EngineRun started = start_server(e); !started.ok()) run = std::move(started);
  } catch (const Error& error) {
    if (error.code() == ExitCode::interrupted) throw;
    run = failed_run(CaseStatus::failed, "not_prepared", error.what());
  } catch (const fs::filesystem_error& error) {
    run = failed_run(CaseStatus::failed, "not_prepared", error.what());
  }
  run.seconds = seconds_since(begin);
  return run;
}

EngineReport CommandDriver::read_report(const BenchRun& run, const Workload& workload) const {
  const std::string where = run.report.string();
  if (id_ != EngineId::vllm) {
    if (fs::exists(run.report))
      return parse_trtllm_report(read_file(run.report, kMaxReportBytes), where, options_.any_version);
    return parse_trtllm_text(read_file(run.log, kMaxLogBytes), run.log.string(), options_.any_version);
  }
  if (!fs::exists(run.report)) throw Error("the benchmark left no report", where, "its log says why");
  const std::string text = read_file(run.report, kMaxReportBytes);
  return workload.kind == WorkloadKind::throughput ? parse_vllm_throughput(text, where)
                                                   : parse_vllm_latency(text, where);
}

EngineRun CommandDriver::bench(const EngineCase& e, const Workload& workload) const {
  const Measurement m = measurement(e, workload);
  fs::create_directories(m.folder);
  for (const WrittenFile& file : m.files) write_file(file.path, file.text);
  if (m.tokens && !fs::exists(m.tokens_file)) {
    EngineLog log;
    const fs::path log_file = m.folder / "tokens.log";
    const ProcessResult result = start(*m.tokens, log_file, options_.build_limit_s, log);
    if (!result.ended_well() || !fs::exists(m.tokens_file))
      return as_run(judge_end(result, log, options_.build_limit_s), "the prompts could not be made");
  }
  EngineRun run;
  std::vector<EngineReport> reports;
  for (const BenchRun& bench : m.runs) {
    fs::remove(bench.report);
    EngineLog log;
    const ProcessResult result = start(bench.command, bench.log, options_.bench_limit_s, log);
    if (const RunEnd end = judge_end(result, log, options_.bench_limit_s); end.status != CaseStatus::ok)
      return as_run(end, "");
    EngineReport report;
    try {
      report = read_report(bench, workload);
    } catch (const Error& error) {
      return failed_run(CaseStatus::failed, "bad_report", error.what());
    }
    if (id_ == EngineId::vllm) {
      report.version = log.version();
      report.kv_word = log.kv_word();
      report.kv = log.kv();
    }
    if (!report.version.empty()) run.engine_version = report.version;
    const CacheCheck cache = check_cache(e.c.kv, report.kv, report.kv_word, e.shape, log.cache_bytes_per_token());
    if (cache.reported) run.kv_reported = cache.reported;
    if (!cache.mismatch.empty() && run.ok()) {
      run.status = CaseStatus::invalid;
      run.error_code = "kv_mismatch";
      run.reason = fmt::format("{} ({})", cache.mismatch, bench.log.string());
    }
    reports.push_back(std::move(report));
  }
  const EngineRun judged = run;
  if (id_ == EngineId::vllm)
    take_vllm_report(reports.back(), reports.size() > 1 ? &reports.front() : nullptr, workload, run);
  else
    take_trtllm_report(reports.back(), workload, run);
  if (!judged.ok()) {  // another cache is the graver fault
    run.status = judged.status;
    run.error_code = judged.error_code;
    run.reason = judged.reason;
  }
  return run;
}

EngineRun CommandDriver::start_server(const EngineCase& e) {
  server_ = std::make_unique<EngineServer>(e, options_.server_limit_s, options_.gpu);
  if (server_->is_up()) return {};
  EngineRun run = server_->start_run();
  server_.reset();
  return run;
}

EngineRun CommandDriver::served(const EngineCase& e, const Workload& workload) {
  if (!server_ && !lost_server_) return failed_run(CaseStatus::failed, "no_server", "the server is not up");
  if (!server_)
    if (EngineRun started = start_server(e); !started.ok()) return started;
  EngineRun run = options_.served_load(server_->address(), e, workload);
  const bool is_well = run.ok() || server_->recovers(kDyingSeconds);
  if (const auto end = server_->died()) {
    server_.reset();
    lost_server_ = true;
    return as_run(*end, "the server ended under load");
  }
  const EngineLog log = server_->log();
  if (!log.version().empty()) run.engine_version = log.version();
  const CacheCheck cache = check_cache(e.c.kv, log.kv(), log.kv_word(), e.shape, log.cache_bytes_per_token());
  if (cache.reported) run.kv_reported = cache.reported;
  if (!cache.mismatch.empty() && run.ok()) {
    run.status = CaseStatus::invalid;
    run.error_code = "kv_mismatch";
    run.reason = cache.mismatch;
  }
  if (!is_well) {
    server_.reset();
    lost_server_ = true;
    run.reason += "; the server failed its health check and was ended";
  }
  return run;
}

EngineRun CommandDriver::run(const EngineCase& e, const Workload& workload) {
  const auto begin = std::chrono::steady_clock::now();
  EngineRun run;
  try {
    run = options_.served_load ? served(e, workload) : bench(e, workload);
  } catch (const Error& error) {
    if (error.code() == ExitCode::interrupted) throw;
    run = failed_run(CaseStatus::failed, "not_run", error.what());
  } catch (const fs::filesystem_error& error) {
    run = failed_run(CaseStatus::failed, "not_run", error.what());
  }
  if (run.engine_version.empty()) run.engine_version = version_;
  run.seconds = seconds_since(begin);
  return run;
}

}  // namespace

std::unique_ptr<EngineDriver> make_command_driver(EngineId id, DriverOptions options) {
  if (!engine_programs(id))
    throw Error(fmt::format("{} is not driven by commands of its own", engine_spec(id).label), "--engine",
                "name tensorrt-llm or vllm");
  return std::make_unique<CommandDriver>(id, std::move(options));
}

}  // namespace qg
