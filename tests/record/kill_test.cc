// A writer is killed with SIGKILL at random moments and started again, until all cases are done. Nothing that the
// writer had reported as written may be lost, nothing may stand twice, and every case must be whole.
#include <signal.h>
#include <sys/wait.h>

#include <random>
#include <set>

#include "core/file.h"
#include "record/journal.h"
#include "tests/record/sample.h"
#include "tests/sanitized.h"

namespace qg {
namespace {

constexpr int kCases = 4000;  // more than can be written before the last kill
constexpr int kKills = 60;
constexpr int kRowsPerCase = 40;

Record case_number(int i) {
  Record about = sample::common("decode/b" + std::to_string(i));
  about.seed = i;
  return about;
}

// Runs in the child: goes on with the journal and reports each written case through the pipe.
[[noreturn]] void write_cases(const std::filesystem::path& file, int run, int report) {
  JournalWriter writer(file, sample::environment("run-" + std::to_string(run)));
  for (int i = 0; i < kCases; ++i) {
    const Record about = case_number(i);
    if (writer.is_done(about.case_key)) continue;
    std::vector<Record> rows;
    for (int r = 0; r < kRowsPerCase; ++r) {
      rows.push_back(measured(about, "output_tok_s", 1000.0 * i + r));
      rows.back().round = r;
    }
    writer.append_case(sample::done(about), rows);
    if (::write(report, &i, sizeof i) != sizeof i) ::_exit(1);
  }
  ::_exit(0);
}

TEST(JournalKill, LosesAtMostTheRunningCase) {
  sample::Folder folder;
  const std::filesystem::path file = folder / "j.jsonl";
  std::mt19937 random(20261122);
  std::set<int> reported;
  int killed = 0, torn = 0;
  for (int run = 0; run < kKills; ++run) {
    int ends[2];
    ASSERT_EQ(::pipe(ends), 0);
    const pid_t child = ::fork();
    ASSERT_GE(child, 0);
    if (child == 0) {
      ::close(ends[0]);
      write_cases(file, run, ends[1]);
    }
    ::close(ends[1]);
    ::usleep(2000 + random() % (kSlowdown > 1 ? 500000 : 80000));
    ::kill(child, SIGKILL);
    int status = 0;
    ::waitpid(child, &status, 0);
    killed += WIFSIGNALED(status);
    for (int i; ::read(ends[0], &i, sizeof i) == static_cast<ssize_t>(sizeof i);) reported.insert(i);
    ::close(ends[0]);

    const Journal journal = parse_journal(std::filesystem::exists(file) ? read_file(file) : "", "j");
    torn += journal.torn_bytes > 0;
    std::set<int> found;
    for (const JournalRun& each : journal.runs) {
      for (const Attempt& attempt : each.attempts) {
        const int i = static_cast<int>(*attempt.done.subject.seed);
        EXPECT_TRUE(found.insert(i).second) << "case " << i << " stands twice";
        ASSERT_EQ(attempt.rows.size(), static_cast<size_t>(kRowsPerCase));
        EXPECT_EQ(attempt.rows.back().value, 1000.0 * i + kRowsPerCase - 1);
      }
    }
    for (int i : reported) EXPECT_TRUE(found.contains(i)) << "case " << i << " was written and is lost";
    EXPECT_LE(found.size(), reported.size() + static_cast<size_t>(run) + 1) << "at most one unreported case a run";
    for (int i : found) reported.insert(i);
  }
  EXPECT_GE(killed, 50);
  EXPECT_GE(reported.size(), 30u) << "the writer hardly got to write: the test shows nothing";
  RecordProperty("cases", static_cast<int>(reported.size()));
  RecordProperty("torn", torn);
}

}  // namespace
}  // namespace qg
