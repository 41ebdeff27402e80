#pragma once
// A program of someone else, started with a time limit and always ended, with all that it started. Between us and the
// program stands a guard: a small process that adopts every orphan below it and ends them all when the program ends,
// when we ask, and when we die, however we die. So no worker of an engine keeps a GPU's memory after a run.
#include <sys/types.h>

#include <chrono>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <fstream>
#include <functional>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

namespace qg {

struct ProcessSpec {
  std::vector<std::string> argv;         // argv[0] is looked for on the PATH, as execvp does
  std::vector<std::string> environment;  // "NAME=VALUE", on top of ours
  std::filesystem::path log;             // standard output and error together, written as they come; replaced
  double limit_s = 0;                    // 0: none
  double grace_s = 5;                    // between the request to end (SIGTERM) and the end (SIGKILL)
  // Called with each line of output when it comes (carriage returns end lines too). A number of seconds means: the
  // program will hardly recover from what it said; when it says nothing more for this long, it is ended.
  std::function<std::optional<double>(std::string_view line)> on_line;
};

enum class ProcessEnd {
  running,
  exited,       // by itself; `code` is its exit code
  signalled,    // `code` is the signal
  limit,        // ended by us at its time limit
  gave_up,      // ended by us: it hung after it had said that it cannot go on
  stopped,      // ended by us because we asked (end(), Ctrl-C)
  not_started,  // `problem` says why
};

struct ProcessResult {
  ProcessEnd end = ProcessEnd::running;
  int code = 0;
  double seconds = 0;
  std::string problem;
  bool ended_well() const { return end == ProcessEnd::exited && code == 0; }
};

class Process {
 public:
  // Starts it. A program that cannot be started is a result, not an exception; throws Error when the log cannot be
  // written or the system has no more processes or files to give.
  explicit Process(ProcessSpec spec);
  ~Process();  // ends it
  Process(const Process&) = delete;
  Process& operator=(const Process&) = delete;

  // Passes output on for at most `seconds`; true when it has ended.
  bool wait(double seconds);
  // Asks it to end, then ends it with all that it started. Returns when all are gone.
  void end(ProcessEnd why = ProcessEnd::stopped);
  const ProcessResult& result() const { return result_; }

 private:
  using Clock = std::chrono::steady_clock;
  bool read_output();  // some of it; true when there may be more
  void take_lines(std::string_view text);
  void read_status();
  void close_all();

  ProcessSpec spec_;
  ProcessResult result_;
  std::ofstream log_;
  pid_t guard_ = -1;
  int life_ = -1, status_ = -1, output_ = -1;  // life_: closing it asks the guard to end everything
  Clock::time_point start_;
  std::optional<Clock::time_point> deadline_, give_up_at_;
  std::optional<double> give_up_seconds_;  // since the last line
  std::string line_;                       // the part of a line that has come
  std::optional<ProcessEnd> why_;
};

// Start, wait, and the end: also when a stop was asked for (core/interrupt.h), which is `stopped`.
ProcessResult run_process(ProcessSpec spec);

// Where execvp would find it; empty when it is not there.
std::optional<std::filesystem::path> find_program(const std::string& name);

// Reads what a process prints while others do something else, until it ends: it would stand still once its pipe is
// full. `mutex` guards the process, what its on_line writes, and `problem`, which is set when the log cannot be
// written. All three outlive the thread.
std::jthread read_on(Process& process, std::mutex& mutex, std::exception_ptr& problem);

}  // namespace qg
