#include "engines/process.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <map>

#include "core/error.h"
#include "core/interrupt.h"
#include "engines/process_guard.h"

namespace qg {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMostLineBytes = 64 << 10;
constexpr double kLookEverySeconds = 0.1;  // at Ctrl-C, while a program runs
constexpr int kReadsAtOnce = 16;           // 64 KiB each: who writes faster than we read must not hide the clock

// Both ends closed at exec, none of them 0, 1 or 2.
struct Pipe {
  int read_end = -1, write_end = -1;
  Pipe() {
    int ends[2];
    if (pipe2(ends, O_CLOEXEC) != 0)
      throw Error(std::string("no pipe: ") + std::strerror(errno), "", "let the system open more files (ulimit -n)",
                  ExitCode::cannot_here);
    read_end = fcntl(ends[0], F_DUPFD_CLOEXEC, 3);
    write_end = fcntl(ends[1], F_DUPFD_CLOEXEC, 3);
    ::close(ends[0]);
    ::close(ends[1]);
  }
};

std::chrono::steady_clock::duration duration(double seconds) {
  return std::chrono::duration_cast<std::chrono::steady_clock::duration>(std::chrono::duration<double>(seconds));
}

std::vector<std::string> whole_environment(const std::vector<std::string>& more) {
  std::map<std::string, std::string> named;
  const auto put = [&](const std::string& text) { named[text.substr(0, text.find('='))] = text; };
  for (char** entry = environ; *entry; ++entry) put(*entry);
  for (const std::string& entry : more) put(entry);
  std::vector<std::string> all;
  for (auto& [name, text] : named) all.push_back(text);
  return all;
}

std::vector<char*> pointers(std::vector<std::string>& words) {
  std::vector<char*> list;
  for (std::string& word : words) list.push_back(word.data());
  list.push_back(nullptr);
  return list;
}

}  // namespace

std::optional<fs::path> find_program(const std::string& name) {
  const auto runs = [](const fs::path& path) {
    std::error_code code;
    return fs::is_regular_file(path, code) && ::access(path.c_str(), X_OK) == 0;
  };
  if (name.find('/') != std::string::npos) return runs(name) ? std::optional<fs::path>(name) : std::nullopt;
  const char* path = std::getenv("PATH");
  if (!path || name.empty()) return std::nullopt;
  const std::string_view all(path);
  for (size_t from = 0; from <= all.size();) {
    const size_t to = std::min(all.find(':', from), all.size());
    const std::string folder(all.substr(from, to - from));
    const fs::path candidate = fs::path(folder.empty() ? "." : folder) / name;
    if (runs(candidate)) return candidate;
    from = to + 1;
  }
  return std::nullopt;
}

Process::Process(ProcessSpec spec) : spec_(std::move(spec)), start_(Clock::now()) {
  const std::optional<fs::path> program = find_program(spec_.argv.at(0));
  if (!program) {
    result_.end = ProcessEnd::not_started;
    result_.problem = spec_.argv[0] + " is not on the PATH";
    return;
  }
  std::error_code code;
  if (!spec_.log.parent_path().empty()) fs::create_directories(spec_.log.parent_path(), code);
  log_.open(spec_.log, std::ios::binary | std::ios::trunc);
  if (!log_)
    throw Error("the log cannot be written", spec_.log.string(), "name a folder that can be written",
                ExitCode::cannot_here);
  std::vector<std::string> environment = whole_environment(spec_.environment);
  const std::vector<char*> argv = pointers(spec_.argv), env = pointers(environment);
  const std::string path = program->string();
  const Pipe life, status, output;
  GuardOrder order{path.c_str(),
                   argv.data(),
                   env.data(),
                   life.read_end,
                   status.write_end,
                   output.write_end,
                   static_cast<int>(spec_.grace_s * 1000)};
  guard_ = fork();
  if (guard_ == 0) run_guard(order);
  const int problem = errno;
  for (int fd : {life.read_end, status.write_end, output.write_end}) ::close(fd);
  life_ = life.write_end;
  status_ = status.read_end;
  output_ = output.read_end;
  if (guard_ < 0) {
    close_all();
    throw Error(std::string("no process can be started: ") + std::strerror(problem), spec_.argv[0],
                "end other programs, or raise the limit (ulimit -u)", ExitCode::cannot_here);
  }
  fcntl(output_, F_SETFL, fcntl(output_, F_GETFL) | O_NONBLOCK);
  if (spec_.limit_s > 0) deadline_ = start_ + duration(spec_.limit_s);
}

Process::~Process() {
  try {
    end();
  } catch (...) {  // a log on a full disk: the process is ended all the same, by closing its pipe
  }
  close_all();
}

void Process::close_all() {
  for (int* fd : {&life_, &status_, &output_}) {
    if (*fd >= 0) ::close(*fd);
    *fd = -1;
  }
  if (guard_ > 0) {
    while (waitpid(guard_, nullptr, 0) < 0 && errno == EINTR) {
    }
    guard_ = -1;
  }
}

void Process::take_lines(std::string_view text) {
  for (char c : text) {
    if (c != '\n' && c != '\r') {
      if (line_.size() < kMostLineBytes) line_ += c;
      continue;
    }
    if (line_.empty()) continue;
    const auto seconds = spec_.on_line ? spec_.on_line(line_) : std::nullopt;
    if (seconds && !give_up_seconds_) give_up_seconds_ = seconds;
    if (give_up_seconds_) give_up_at_ = Clock::now() + duration(*give_up_seconds_);
    line_.clear();
  }
}

bool Process::read_output() {
  std::array<char, 65536> buffer;
  for (int i = 0; i < kReadsAtOnce; ++i) {
    const ssize_t got = ::read(output_, buffer.data(), buffer.size());
    if (got <= 0) return false;
    log_.write(buffer.data(), got).flush();
    if (!log_)
      throw Error("the log cannot be written", spec_.log.string(), "free space on that disk", ExitCode::cannot_here);
    take_lines({buffer.data(), static_cast<size_t>(got)});
  }
  return true;
}

void Process::read_status() {
  GuardReport report{GuardReport::not_started, 0};
  ssize_t got;
  while ((got = ::read(status_, &report, sizeof report)) < 0 && errno == EINTR) {
  }
  while (read_output()) {
  }
  take_lines("\n");
  result_.seconds = std::chrono::duration<double>(Clock::now() - start_).count();
  result_.code = report.value;
  if (got != static_cast<ssize_t>(sizeof report)) {
    result_.end = ProcessEnd::signalled;
    result_.code = SIGKILL;
    result_.problem = "the guard of the process was killed";
  } else if (report.kind == GuardReport::not_started) {
    result_.end = ProcessEnd::not_started;
    result_.problem = fmt::format("{} cannot be started: {}", spec_.argv[0], std::strerror(report.value));
  } else if (report.kind == GuardReport::ended_by_order) {
    result_.end = why_.value_or(ProcessEnd::stopped);
  } else {
    result_.end = report.kind == GuardReport::exited ? ProcessEnd::exited : ProcessEnd::signalled;
  }
  close_all();
}

bool Process::wait(double seconds) {
  if (result_.end != ProcessEnd::running) return true;
  const auto until = Clock::now() + duration(seconds);
  for (;;) {
    auto next = until;
    if (deadline_) next = std::min(next, *deadline_);
    if (give_up_at_) next = std::min(next, *give_up_at_);
    const auto left = std::chrono::duration_cast<std::chrono::milliseconds>(next - Clock::now()).count();
    std::array<pollfd, 2> wait{{{status_, POLLIN, 0}, {output_, POLLIN, 0}}};
    const int ready =
        ::poll(wait.data(), output_ < 0 ? 1 : 2, static_cast<int>(std::clamp<int64_t>(left + 1, 0, 1000)));
    if (ready < 0 && errno == EINTR) return false;  // a signal: the caller looks at what was asked
    if (wait[1].revents & POLLIN) read_output();
    if (wait[0].revents != 0) {
      read_status();
      return true;
    }
    if (wait[1].revents != 0 && !(wait[1].revents & POLLIN)) {  // all writers have closed it
      ::close(output_);
      output_ = -1;
    }
    const auto now = Clock::now();
    if (give_up_at_ && now >= *give_up_at_) {
      end(ProcessEnd::gave_up);
      return true;
    }
    if (deadline_ && now >= *deadline_) {
      end(ProcessEnd::limit);
      return true;
    }
    if (now >= until) return false;
  }
}

void Process::end(ProcessEnd why) {
  if (result_.end != ProcessEnd::running) return;
  why_ = why;
  if (life_ >= 0) ::close(life_);
  life_ = -1;
  deadline_.reset();
  give_up_at_.reset();
  spec_.on_line = {};
  give_up_seconds_.reset();
  while (!wait(1)) {  // the guard gives up after its own limits
  }
}

ProcessResult run_process(ProcessSpec spec) {
  Process process(std::move(spec));
  while (!process.wait(kLookEverySeconds))
    if (interrupted()) process.end(ProcessEnd::stopped);
  return process.result();
}

std::jthread read_on(Process& process, std::mutex& mutex, std::exception_ptr& problem) {
  return std::jthread([&](const std::stop_token& stop) {
    for (bool ended = false; !ended && !stop.stop_requested();) {
      std::this_thread::sleep_for(std::chrono::milliseconds(20));
      const std::lock_guard lock(mutex);
      try {
        ended = process.wait(0);
      } catch (const Error&) {  // the log cannot be written
        problem = std::current_exception();
        return;
      }
    }
  });
}

}  // namespace qg
