#include "engines/process_guard.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <csignal>
#include <cstddef>
#include <ctime>
#include <initializer_list>

namespace qg {
namespace {

constexpr int kMostProcesses = 1 << 16;
constexpr int64_t kKillLimitMs = 10'000;  // a process that SIGKILL does not end hangs in the kernel
constexpr int64_t kTidyMs = 500;          // for helpers that end a moment after the program

struct Seen {
  pid_t pid, parent;
  bool below_us;
};
Seen seen[kMostProcesses];

int64_t now_ms() {
  timespec t{};
  clock_gettime(CLOCK_MONOTONIC, &t);
  return int64_t{t.tv_sec} * 1000 + t.tv_nsec / 1'000'000;
}

void sleep_ms(long ms) {
  const timespec t{0, ms * 1'000'000};
  nanosleep(&t, nullptr);
}

pid_t number(const char* text) {
  long n = 0;
  for (; *text >= '0' && *text <= '9'; ++text) n = n * 10 + (*text - '0');
  return *text == '\0' && n < INT_MAX ? static_cast<pid_t>(n) : 0;
}

// Parent of a process that still runs; 0 for one that is gone or waits to be reaped.
pid_t parent_of(const char* name) {
  char path[64] = "/proc/";
  size_t n = 6;
  for (; *name && n < 40; ++name) path[n++] = *name;
  for (const char* rest = "/stat"; *rest; ++rest) path[n++] = *rest;
  path[n] = '\0';
  const int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return 0;
  char text[512];
  const ssize_t got = read(fd, text, sizeof text - 1);
  close(fd);
  if (got <= 0) return 0;
  ssize_t end = got - 1;  // "pid (name with anything in it) STATE ppid ..."
  while (end > 0 && text[end] != ')') --end;
  if (end + 4 >= got) return 0;
  const char state = text[end + 2];
  if (state == 'Z' || state == 'X') return 0;
  long parent = 0;
  for (ssize_t i = end + 4; i < got && text[i] >= '0' && text[i] <= '9'; ++i) parent = parent * 10 + (text[i] - '0');
  return static_cast<pid_t>(parent);
}

// All processes, into `seen`; those below us are marked. Returns how many run below us.
int look(pid_t us) {
  struct Entry {  // as the kernel writes them (getdents64)
    uint64_t inode;
    int64_t offset;
    unsigned short bytes;
    unsigned char type;
    char name[1];
  };
  alignas(8) char buffer[16384];
  int count = 0;
  const int fd = open("/proc", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return 0;
  for (long got; (got = syscall(SYS_getdents64, fd, buffer, sizeof buffer)) > 0;)
    for (long at = 0; at < got;) {
      const auto* entry = reinterpret_cast<const Entry*>(buffer + at);
      const char* name = buffer + at + offsetof(Entry, name);
      at += entry->bytes;
      const pid_t pid = number(name);
      if (pid <= 0 || count == kMostProcesses) continue;
      if (const pid_t parent = parent_of(name); parent > 0) seen[count++] = {pid, parent, false};
    }
  close(fd);
  int below = 0;
  for (bool found = true; found;) {
    found = false;
    for (int i = 0; i < count; ++i) {
      if (seen[i].below_us) continue;
      bool mark = seen[i].parent == us;
      for (int j = 0; j < count && !mark; ++j) mark = seen[j].below_us && seen[j].pid == seen[i].parent;
      if (!mark) continue;
      seen[i].below_us = found = true;
      ++below;
    }
  }
  for (int i = count; i < kMostProcesses && seen[i].pid != 0; ++i) seen[i] = {};
  return below;
}

void signal_all(int signal) {
  for (int i = 0; i < kMostProcesses && seen[i].pid != 0; ++i)
    if (seen[i].below_us) kill(seen[i].pid, signal);
}

// Keeps how the program itself ended.
struct Main {
  pid_t pid = -1;
  bool ended = false;
  int status = 0;
};

void reap(Main& main) {
  int status = 0;
  for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;)
    if (pid == main.pid) {
      main.ended = true;
      main.status = status;
    }
}

void end_everything(Main& main, int64_t grace_ms) {
  const pid_t us = getpid();
  if (look(us) > 0) signal_all(SIGTERM);
  for (const int64_t until = now_ms() + grace_ms; now_ms() < until; sleep_ms(10)) {
    reap(main);
    if (look(us) == 0) break;
  }
  for (const int64_t until = now_ms() + kKillLimitMs; look(us) > 0 && now_ms() < until; sleep_ms(5)) {
    signal_all(SIGKILL);
    reap(main);
  }
  reap(main);
}

void close_files(unsigned from, unsigned to) {
  if (syscall(SYS_close_range, from, to, 0) == 0) return;
  for (unsigned fd = from; fd <= to && fd < 65536; ++fd) close(static_cast<int>(fd));  // Linux before 5.9
}

void close_other_files(int a, int b, int c) {
  int keep[3] = {a, b, c};
  for (int i = 0; i < 3; ++i)
    for (int j = i + 1; j < 3; ++j)
      if (keep[j] < keep[i]) {
        const int t = keep[i];
        keep[i] = keep[j];
        keep[j] = t;
      }
  unsigned from = 0;
  for (int k : keep) {
    if (static_cast<unsigned>(k) > from) close_files(from, static_cast<unsigned>(k) - 1);
    from = static_cast<unsigned>(k) + 1;
  }
  close_files(from, ~0U);
}

[[noreturn]] void become_program(const GuardOrder& order, pid_t guard, int failure) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);  // even when the guard itself is killed
  if (getppid() != guard) _exit(127);
  setsid();
  for (int s = 1; s < NSIG; ++s) signal(s, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  const int input = open("/dev/null", O_RDONLY);
  const int output = dup(order.output);
  if (input >= 0) dup2(input, 0);
  dup2(output, 1);
  dup2(output, 2);
  if (input > 2) close(input);
  if (output > 2) close(output);
  execve(order.program, order.argv, order.environment);
  const int32_t why = errno;
  const ssize_t written = write(failure, &why, sizeof why);
  _exit(written > 0 ? 127 : 126);
}

[[noreturn]] void report_and_leave(const GuardOrder& order, GuardReport report) {
  const ssize_t written = write(order.status, &report, sizeof report);
  _exit(written > 0 ? 0 : 1);
}

}  // namespace

void run_guard(const GuardOrder& order) {
  setsid();
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  prctl(PR_SET_NAME, "quantgrid-guard");
  for (int s : {SIGINT, SIGTERM, SIGHUP, SIGPIPE, SIGQUIT}) signal(s, SIG_IGN);
  close_other_files(order.life, order.status, order.output);
  for (int i = 0; i < 3; ++i)  // 0 to 2 must not become our pipes: libraries write there
    if (open("/dev/null", O_RDWR) > 2) break;
  sigset_t child;
  sigemptyset(&child);
  sigaddset(&child, SIGCHLD);
  sigprocmask(SIG_BLOCK, &child, nullptr);
  const int children = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
  int failure[2];
  if (children < 0 || pipe2(failure, O_CLOEXEC) != 0) report_and_leave(order, {GuardReport::not_started, errno});
  const pid_t guard = getpid();
  Main main;
  main.pid = fork();
  if (main.pid < 0) report_and_leave(order, {GuardReport::not_started, errno});
  if (main.pid == 0) become_program(order, guard, failure[1]);
  close(failure[1]);
  close(order.output);
  int32_t why = 0;
  if (read(failure[0], &why, sizeof why) == static_cast<ssize_t>(sizeof why))
    report_and_leave(order, {GuardReport::not_started, why});
  close(failure[0]);

  bool ordered = false;
  while (!main.ended && !ordered) {
    pollfd wait[2] = {{order.life, POLLIN, 0}, {children, POLLIN, 0}};
    if (poll(wait, 2, -1) < 0 && errno != EINTR) break;
    ordered = wait[0].revents != 0;
    signalfd_siginfo info;
    while (read(children, &info, sizeof info) > 0) {
    }
    reap(main);
  }
  end_everything(main, ordered ? order.grace_ms : kTidyMs);
  if (ordered) report_and_leave(order, {GuardReport::ended_by_order, 0});
  if (WIFSIGNALED(main.status)) report_and_leave(order, {GuardReport::signalled, WTERMSIG(main.status)});
  report_and_leave(order, {GuardReport::exited, WEXITSTATUS(main.status)});
}

}  // namespace qg
