#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <exception>
#include <filesystem>
#include <map>
#include <new>
#include <system_error>

#include "core/interrupt.h"
#include "core/log.h"
#include "core/parallel.h"
#include "core/progress.h"
#include "core/version.h"
#include "grid/names.h"
#include "verb.h"

namespace qg {
namespace {

std::vector<Verb>& verbs() {
  static std::vector<Verb> all;
  return all;
}

struct CommonFlags {
  std::string progress = "auto";
  int threads = 0;
  bool quiet = false, verbose = false;
};

void add_common(CLI::App& command, CommonFlags& flags) {
  command.add_option("--progress", flags.progress, "auto (a bar on a terminal), bar, plain or none")
      ->check(CLI::IsMember({"auto", "bar", "plain", "none"}))
      ->group("Common");
  command.add_option("--threads", flags.threads, "threads to compute with (default: all processors)")
      ->check(CLI::Range(1, 1024))
      ->group("Common");
  command.add_flag("-q,--quiet", flags.quiet, "warnings only")->group("Common");
  command.add_flag("-v,--verbose", flags.verbose, "say more")->group("Common");
}

void apply(const CommonFlags& flags) {
  static const std::map<std::string, ProgressMode> kModes{{"auto", ProgressMode::automatic},
                                                          {"bar", ProgressMode::bar},
                                                          {"plain", ProgressMode::plain},
                                                          {"none", ProgressMode::none}};
  set_up_log(flags.quiet ? Verbosity::quiet : flags.verbose ? Verbosity::verbose : Verbosity::normal);
  set_progress_mode(kModes.at(flags.progress));
  if (flags.threads > 0) set_num_threads(flags.threads);
}

int report(const Error& error) {
  std::fprintf(stderr, "quantgrid: %s\n", error.what());
  return static_cast<int>(error.code());
}

// CLI11 would only say that a subcommand is missing.
void refuse_unknown_verb(int argc, char** argv) {
  if (argc < 2 || argv[1][0] == '-' || argv[1][0] == '\0') return;
  std::vector<std::string> names;
  for (const Verb& verb : registered_verbs()) names.push_back(verb.name);
  if (std::find(names.begin(), names.end(), argv[1]) != names.end()) return;
  const std::string near = nearest_name(argv[1], names);
  throw Error(fmt::format("there is no verb '{}'", argv[1]), "",
              (near.empty() ? "" : fmt::format("did you mean '{}'? ", near)) + "`quantgrid --help` lists all");
}

// A program may be started with standard output or error closed. The next file that is opened would take their number:
// messages would be written into a journal.
void hold_standard_files() {
  int fd = 0;
  while (fd >= 0 && fd <= STDERR_FILENO) fd = ::open("/dev/null", O_RDWR);
  if (fd >= 0) ::close(fd);
}

// `code`: of errno, 0 where it is not known.
Error output_error(int code) {
  return Error(std::string("cannot be written") + (code == 0 ? "" : std::string(": ") + std::strerror(code)),
               "standard output", "look where it goes to; when that disk is full, free some of it");
}

// What is printed waits in a buffer: a full disk may show only when all else is done.
void flush_output() {
  if (std::fflush(stdout) != 0) throw output_error(errno);
  if (std::ferror(stdout) != 0) throw output_error(0);  // at an earlier write, which nobody looked at
}

Error internal_error(const std::exception& e) {
  return Error(std::string("internal error: ") + e.what(), "", "please report this with the command that you ran",
               ExitCode::cannot_here);
}

int run(int argc, char** argv) {
  CLI::App app{
      "Which weight format and which KV-cache format should I serve, for this model on this card?\n"
      "Quantgrid makes the quantized checkpoints, runs every case, compares and names the winner."};
  app.name("quantgrid");
  app.require_subcommand(1);
  app.set_version_flag("--version", fmt::format("quantgrid {} ({}; {})", version(), build_commit(), build_options()));
  app.failure_message(CLI::FailureMessage::simple);

  CommonFlags common;
  std::map<const CLI::App*, std::function<ExitCode()>> actions;
  for (const Verb& verb : registered_verbs()) {
    CLI::App* command = app.add_subcommand(verb.name, verb.summary);
    command->footer(std::string("Example:\n  ") + verb.example);
    actions[command] = verb.declare(*command);
    add_common(*command, common);
  }
  refuse_unknown_verb(argc, argv);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    const int code = app.exit(e);
    if (code != 0) return static_cast<int>(ExitCode::wrong_input);
    flush_output();
    return 0;
  }
  apply(common);
  watch_interrupts();
  const ExitCode code = actions.at(app.get_subcommands().front())();
  flush_output();
  return static_cast<int>(code);
}

}  // namespace

RegisterVerb::RegisterVerb(Verb verb) {
  verbs().push_back(std::move(verb));
}

const std::vector<Verb>& registered_verbs() {
  std::sort(verbs().begin(), verbs().end(), [](const Verb& a, const Verb& b) { return a.order < b.order; });
  return verbs();
}

}  // namespace qg

int main(int argc, char** argv) {
  qg::hold_standard_files();
  std::signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes is an error like a full disk
  try {
    return qg::run(argc, argv);
  } catch (const qg::Error& e) {
    return qg::report(e);
  } catch (const std::filesystem::filesystem_error& e) {
    return qg::report(qg::Error(e.code().message(), e.path1().string(), "check path and permissions"));
  } catch (const std::system_error& e) {  // fmt's print throws it
    if (std::ferror(stdout) != 0) return qg::report(qg::output_error(e.code().value()));
    return qg::report(qg::internal_error(e));
  } catch (const std::bad_alloc&) {
    return qg::report(
        qg::Error("out of memory", "", "use a smaller model or a machine with more memory", qg::ExitCode::cannot_here));
  } catch (const std::exception& e) {
    return qg::report(qg::internal_error(e));
  }
}
