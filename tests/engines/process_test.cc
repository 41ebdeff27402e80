// A program is started, read, limited and ended with everything that it started, whatever it does and whatever happens
// to us.
#include "engines/process.h"

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <condition_variable>
#include <mutex>

#include "tests/engines/stand_in.h"

namespace qg {
namespace {

ProcessSpec a_spec(const StandIns& programs, const std::string& name, double limit_s = 60) {
  ProcessSpec spec;
  spec.argv = {name};
  spec.log = programs.folder() / "log.txt";
  spec.limit_s = limit_s;
  spec.grace_s = 0.3;
  return spec;
}

// A program that leaves three generations behind, one of them in a session of its own and deaf to SIGTERM.
const char* kFamily = R"sh(
here=$(dirname "$(dirname "$0")")
echo $$ >> "$here/pids"
bash -c "echo \$\$ >> '$here/pids'; sleep 300 & echo \$! >> '$here/pids'; wait" &
setsid bash -c "trap '' TERM; echo \$\$ >> '$here/pids'; (sleep 300 & echo \$! >> '$here/pids'; wait); touch '$here/never'" &
while [ "$(wc -l < "$here/pids")" -lt 5 ]; do sleep 0.01; done
echo ready > "$here/ready"
)sh";

TEST(Process, ExitCodeOutputAndEnvironment) {
  StandIns programs("process-plain");
  programs.add("talker",
               "echo \"out $VALUE $1\"; echo err >&2; printf 'half\\rbar'; read line || echo no input; exit 7");
  ProcessSpec spec = a_spec(programs, "talker");
  spec.argv.push_back("a b");
  spec.environment = {"VALUE=x y"};
  std::vector<std::string> lines;
  spec.on_line = [&](std::string_view line) {
    lines.emplace_back(line);
    return std::nullopt;
  };
  const ProcessResult result = run_process(std::move(spec));
  EXPECT_EQ(result.end, ProcessEnd::exited);
  EXPECT_EQ(result.code, 7);
  EXPECT_EQ(programs.text("log.txt"), "out x y a b\nerr\nhalf\rbarno input\n");
  EXPECT_EQ(lines, (std::vector<std::string>{"out x y a b", "err", "half", "barno input"}));
}

TEST(Process, MuchOutputIsKept) {
  StandIns programs("process-much");
  programs.add("much", "yes 0123456789012345678901234567890123456789 | head -n 50000");
  const ProcessResult result = run_process(a_spec(programs, "much"));
  EXPECT_TRUE(result.ended_well());
  EXPECT_EQ(programs.text("log.txt").size(), 50000u * 41);
}

TEST(Process, ASignalIsNotAnExitCode) {
  StandIns programs("process-signal");
  programs.add("dies", "kill -SEGV $$");
  const ProcessResult result = run_process(a_spec(programs, "dies"));
  EXPECT_EQ(result.end, ProcessEnd::signalled);
  EXPECT_EQ(result.code, SIGSEGV);
}

TEST(Process, WhatCannotStartIsAResult) {
  StandIns programs("process-none");
  const ProcessResult missing = run_process(a_spec(programs, "quantgrid-no-such-program"));
  EXPECT_EQ(missing.end, ProcessEnd::not_started);
  EXPECT_NE(missing.problem.find("not on the PATH"), std::string::npos);
  std::ofstream(programs.bin() / "bad") << "#!/no/such/interpreter\n";
  std::filesystem::permissions(programs.bin() / "bad", std::filesystem::perms::owner_all);
  const ProcessResult bad = run_process(a_spec(programs, "bad"));
  EXPECT_EQ(bad.end, ProcessEnd::not_started);
  EXPECT_NE(bad.problem.find("No such file"), std::string::npos) << bad.problem;
}

TEST(Process, OrphansEndWithTheProgram) {
  StandIns programs("process-orphans");
  programs.add("family", kFamily);
  const ProcessResult result = run_process(a_spec(programs, "family"));
  EXPECT_TRUE(result.ended_well());
  const std::vector<pid_t> pids = programs.pids("pids");
  ASSERT_EQ(pids.size(), 5u);
  for (pid_t pid : pids) EXPECT_TRUE(is_gone(pid, 0.1)) << pid;  // gone when run_process returns
  EXPECT_FALSE(std::filesystem::exists(programs.folder() / "never"));
}

TEST(Process, TheLimitEndsEverything) {
  StandIns programs("process-limit");
  programs.add("family", std::string(kFamily) + "sleep 300\n");
  const ProcessResult result = run_process(a_spec(programs, "family", 1.5));
  EXPECT_EQ(result.end, ProcessEnd::limit);
  EXPECT_GE(result.seconds, 1.4);
  EXPECT_LT(result.seconds, 10);
  const std::vector<pid_t> pids = programs.pids("pids");
  ASSERT_EQ(pids.size(), 5u);
  for (pid_t pid : pids) EXPECT_TRUE(is_gone(pid, 0.1)) << pid;
}

TEST(Process, AHangAfterAFatalLineIsEnded) {
  StandIns programs("process-hang");
  programs.add("hangs", "echo fine; echo 'torch.OutOfMemoryError'; sleep 300");
  ProcessSpec spec = a_spec(programs, "hangs");
  spec.on_line = [](std::string_view line) -> std::optional<double> {
    return line.find("OutOfMemory") == std::string_view::npos ? std::nullopt : std::optional<double>(0.3);
  };
  const ProcessResult result = run_process(std::move(spec));
  EXPECT_EQ(result.end, ProcessEnd::gave_up);
  EXPECT_LT(result.seconds, 10);
}

// Its pipe is never empty: who reads it must still look at the clock.
TEST(Process, AFloodOfOutputDoesNotHideTheLimit) {
  StandIns programs("process-flood");
  programs.add("flood", "echo $$ > '" + (programs.folder() / "pids").string() + "'; exec yes " + std::string(400, 'x'));
  ProcessSpec spec = a_spec(programs, "flood", 0.5);
  spec.on_line = [](std::string_view) -> std::optional<double> {
    std::this_thread::sleep_for(std::chrono::microseconds(20));  // slower to read than to write
    return std::nullopt;
  };
  // Where the limit is not heeded, the test ends all the same, before the disk is full.
  std::mutex mutex;
  std::condition_variable_any ended;
  std::jthread watch([&](const std::stop_token& stop) {
    std::unique_lock lock(mutex);
    if (ended.wait_for(lock, stop, std::chrono::seconds(10), [] { return false; }); stop.stop_requested()) return;
    for (pid_t pid : programs.pids("pids")) kill(pid, SIGKILL);
  });
  const ProcessResult result = run_process(std::move(spec));
  EXPECT_EQ(result.end, ProcessEnd::limit);
  EXPECT_LT(result.seconds, 8);
}

// However we die: a process that starts the program is killed by each signal in turn.
TEST(Process, NothingOutlivesUs) {
  for (int signal : {SIGKILL, SIGTERM, SIGSEGV}) {
    StandIns programs("process-killed");
    programs.add("family", std::string(kFamily) + "sleep 300\n");
    const pid_t us = fork();
    if (us == 0) {
      ProcessSpec spec = a_spec(programs, "family");
      run_process(std::move(spec));
      _exit(0);
    }
    ASSERT_TRUE(wait_for_file(programs.folder() / "ready"));
    const std::vector<pid_t> pids = programs.pids("pids");
    ASSERT_EQ(pids.size(), 5u);
    for (pid_t pid : pids) EXPECT_EQ(kill(pid, 0), 0) << pid;
    kill(us, signal);
    waitpid(us, nullptr, 0);
    for (pid_t pid : pids) EXPECT_TRUE(is_gone(pid)) << pid << " after signal " << signal;
  }
}

TEST(Process, TheDestructorEndsIt) {
  StandIns programs("process-dropped");
  programs.add("family", std::string(kFamily) + "sleep 300\n");
  {
    Process process(a_spec(programs, "family"));
    ASSERT_TRUE(wait_for_file(programs.folder() / "ready"));
    EXPECT_FALSE(process.wait(0));
  }
  for (pid_t pid : programs.pids("pids")) EXPECT_TRUE(is_gone(pid, 0.1)) << pid;
}

TEST(Process, TwoAtOnceDoNotHoldEachOther) {
  StandIns programs("process-two");
  programs.add("long", "sleep 300");
  programs.add("short", "echo done");
  ProcessSpec first = a_spec(programs, "long"), second = a_spec(programs, "short");
  second.log = programs.folder() / "log2.txt";
  Process a(std::move(first));
  Process b(std::move(second));
  EXPECT_TRUE(b.wait(10));
  EXPECT_TRUE(b.result().ended_well());
  a.end();
  EXPECT_EQ(a.result().end, ProcessEnd::stopped);
}

TEST(Process, ALogThatCannotBeWrittenIsAnError) {
  StandIns programs("process-log");
  programs.add("talker", "echo hello");
  ProcessSpec spec = a_spec(programs, "talker");
  spec.log = "/proc/none/log.txt";
  EXPECT_ANY_THROW(run_process(std::move(spec)));
}

}  // namespace
}  // namespace qg
