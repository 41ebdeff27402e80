#include <fmt/format.h>

#include <algorithm>
#include <csignal>
#include <cstdio>
#include <exception>
#include <filesystem>
#include <map>
#include <new>

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
    return code == 0 ? 0 : static_cast<int>(ExitCode::wrong_input);
  }
  apply(common);
  watch_interrupts();
  return static_cast<int>(actions.at(app.get_subcommands().front())());
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
  std::signal(SIGXFSZ, SIG_IGN);  // a limit on file sizes is an error like a full disk
  try {
    return qg::run(argc, argv);
  } catch (const qg::Error& e) {
    return qg::report(e);
  } catch (const std::filesystem::filesystem_error& e) {
    return qg::report(qg::Error(e.code().message(), e.path1().string(), "check path and permissions"));
  } catch (const std::bad_alloc&) {
    return qg::report(
        qg::Error("out of memory", "", "use a smaller model or a machine with more memory", qg::ExitCode::cannot_here));
  } catch (const std::exception& e) {
    return qg::report(qg::Error(std::string("internal error: ") + e.what(), "",
                                "please report this with the command that you ran", qg::ExitCode::cannot_here));
  }
}
