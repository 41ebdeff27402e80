#include "record/journal.h"

#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <fstream>
#include <thread>

#include "core/error.h"
#include "core/file.h"
#include "tests/record/sample.h"

namespace {
bool sync_fails = false;
}

// In the place of the C library's: as network file systems tell of a full disk.
extern "C" int fsync(int fd) {
  if (!sync_fails) return static_cast<int>(syscall(SYS_fsync, fd));
  errno = ENOSPC;
  return -1;
}

namespace qg {
namespace {

using sample::Folder;

void append_text(const std::filesystem::path& file, const std::string& text) {
  std::ofstream(file, std::ios::app | std::ios::binary) << text;
}

// Three cases of two runs.
std::string write_sample(const std::filesystem::path& file) {
  {
    JournalWriter writer(file, sample::environment("run-1"));
    writer.append_case(sample::done(sample::common("decode/b1")), sample::speed_rows(sample::common("decode/b1"), 20));
    CaseDone failed = sample::done(sample::common("decode/b8"));
    failed.subject.status = "oom";
    failed.subject.error_msg = "needs 9 GB, has 8 GB";
    writer.append_case(failed, {});
  }
  JournalWriter writer(file, sample::environment("run-2"));
  writer.append_case(sample::done(sample::common("decode/b8")), sample::speed_rows(sample::common("decode/b8"), 90));
  return read_file(file);
}

std::string error_of(const std::string& text) {
  try {
    parse_journal(text, "j.jsonl");
  } catch (const Error& e) {
    return e.what();
  }
  return "no error";
}

std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t at = 0, end; (end = text.find('\n', at)) != std::string::npos; at = end + 1)
    lines.push_back(text.substr(at, end - at + 1));
  return lines;
}

TEST(Journal, RoundTrip) {
  Folder folder;
  write_sample(folder / "j.jsonl");
  const Journal journal = read_journal(folder / "j.jsonl");
  ASSERT_EQ(journal.runs.size(), 2u);
  EXPECT_EQ(journal.runs[0].environment, sample::environment("run-1"));
  ASSERT_EQ(journal.runs[0].attempts.size(), 2u);
  EXPECT_EQ(journal.runs[0].attempts[1].done.subject.error_msg, "needs 9 GB, has 8 GB");
  ASSERT_EQ(journal.runs[1].attempts.size(), 1u);
  const Attempt& last = journal.runs[1].attempts[0];
  EXPECT_EQ(last.done.subject.attempt, 2);
  EXPECT_EQ(last.done.rows, 3);
  EXPECT_EQ(last.done.seconds, 12.5);
  EXPECT_EQ(last.rows[0].value, 90);
  EXPECT_EQ(last.rows[0].unit, "tok/s");
  EXPECT_EQ(last.rows[0].ci_lo, 90 * 0.99);
  EXPECT_EQ(last.rows[1].metric, "ttft_ms_p50");
  EXPECT_EQ(journal.torn_bytes, 0);
}

TEST(Journal, DoneMeansFinal) {
  Folder folder;
  write_sample(folder / "j.jsonl");
  JournalWriter writer(folder / "j.jsonl", sample::environment("run-3"));
  EXPECT_TRUE(writer.is_done(sample::common("decode/b1").case_key));
  EXPECT_TRUE(writer.is_done(sample::common("decode/b8").case_key)) << "the second attempt was ok";
  EXPECT_FALSE(writer.is_done(sample::common("decode/b64").case_key));
  CaseDone crash = sample::done(sample::common("decode/b64"));
  crash.subject.status = "crash";
  writer.append_case(crash, {});
  EXPECT_FALSE(writer.is_done(sample::common("decode/b64").case_key)) << "a crash is tried again";
  CaseDone skipped = sample::done(sample::common("decode/b64"));
  skipped.subject.status = "skipped_unsupported";
  writer.append_case(skipped, {});
  EXPECT_TRUE(writer.is_done(sample::common("decode/b64").case_key));
  EXPECT_EQ(writer.last_attempt(sample::common("decode/b64").case_key)->done.subject.attempt, 2);
}

TEST(Journal, NothingToDoLeavesTheFileAlone) {
  Folder folder;
  const std::string before = write_sample(folder / "j.jsonl");
  { JournalWriter writer(folder / "j.jsonl", sample::environment("run-3")); }
  EXPECT_EQ(read_file(folder / "j.jsonl"), before);
}

// Also not a file that holds nothing, nor the folders that it would have lain in.
TEST(Journal, NothingRecordedLeavesNoFile) {
  Folder folder;
  const std::filesystem::path file = folder / "new/deep/j.jsonl";
  {
    JournalWriter writer(file, sample::environment("run-1"));
    EXPECT_TRUE(std::filesystem::exists(file)) << "it is what others see that it is locked";
  }
  EXPECT_FALSE(std::filesystem::exists(folder / "new"));
  append_text(folder / "empty.jsonl", "");  // somebody's
  { JournalWriter writer(folder / "empty.jsonl", sample::environment("run-1")); }
  EXPECT_TRUE(std::filesystem::exists(folder / "empty.jsonl"));
  write_sample(file);
  EXPECT_EQ(read_journal(file).runs.size(), 2u);
}

// A writer that takes its empty file away takes nobody's journal with it.
TEST(Journal, ALeavingWriterTakesNothingOfTheNext) {
  Folder folder;
  const std::filesystem::path file = folder / "new/j.jsonl";
  std::atomic<bool> stop = false;
  std::vector<std::thread> leaving;
  for (int i = 0; i < 2; ++i)
    leaving.emplace_back([&] {
      while (!stop) try {
          JournalWriter writer(file, sample::environment("run-0"));
        } catch (const Error&) {  // another has it
        }
    });
  const Record about = sample::common("decode/b1");
  for (int kept = 0; kept < 300;) try {
      {
        JournalWriter writer(file, sample::environment("run-1"));
        writer.append_case(sample::done(about), sample::speed_rows(about, 20));
      }
      EXPECT_TRUE(std::filesystem::exists(file)) << "after " << kept;
      std::filesystem::remove(file);
      ++kept;
    } catch (const Error&) {  // another has it
    }
  stop = true;
  for (std::thread& thread : leaving) thread.join();
}

// Whatever prefix of the file a crash leaves, the cases before it are read and the writer goes on behind them.
TEST(Journal, EveryPrefixIsReadable) {
  Folder folder;
  const std::string text = write_sample(folder / "j.jsonl");
  const std::vector<JournalRun> whole = parse_journal(text, "j").runs;
  std::vector<Attempt> all;
  for (const JournalRun& run : whole) all.insert(all.end(), run.attempts.begin(), run.attempts.end());
  size_t most = 0;
  for (size_t bytes = 0; bytes <= text.size(); ++bytes) {
    const Journal journal = parse_journal(text.substr(0, bytes), "j");
    std::vector<Attempt> found;
    for (const JournalRun& run : journal.runs) found.insert(found.end(), run.attempts.begin(), run.attempts.end());
    ASSERT_LE(found.size(), all.size());
    ASSERT_GE(found.size(), most) << "at byte " << bytes;
    most = found.size();
    ASSERT_TRUE(std::equal(found.begin(), found.end(), all.begin())) << "at byte " << bytes;
    ASSERT_EQ(journal.sound_bytes + journal.torn_bytes, static_cast<int64_t>(bytes));
  }
  EXPECT_EQ(most, 3u);
}

TEST(Journal, TornEndIsCutAndOverwritten) {
  Folder folder;
  const std::string text = write_sample(folder / "j.jsonl");
  const std::vector<std::string> lines = lines_of(text);
  append_text(folder / "j.jsonl", lines[7] + lines[8].substr(0, 40));  // a row without their end, and half a row
  JournalWriter writer(folder / "j.jsonl", sample::environment("run-3"));
  EXPECT_GT(writer.cut_bytes(), 0);
  writer.append_case(sample::done(sample::common("1000/1000")), sample::speed_rows(sample::common("1000/1000"), 7));
  const std::string after = read_file(folder / "j.jsonl");
  EXPECT_EQ(after.substr(0, text.size()), text);
  EXPECT_EQ(parse_journal(after, "j").runs.size(), 3u);
}

// What could not be synced does not stand behind a shorter batch that follows.
TEST(Journal, ABatchThatWasNotSyncedIsCut) {
  Folder folder;
  const std::string before = write_sample(folder / "j.jsonl");
  {
    JournalWriter writer(folder / "j.jsonl", sample::environment("run-3"));
    const Record about = sample::common("decode/b64");
    sync_fails = true;
    EXPECT_THROW(writer.append_case(sample::done(about), sample::speed_rows(about, 20)), Error);
    sync_fails = false;
    EXPECT_EQ(read_file(folder / "j.jsonl"), before);
    CaseDone failed = sample::done(about);
    failed.subject.status = "failed";
    writer.append_case(failed, {});
  }
  const Journal journal = read_journal(folder / "j.jsonl");
  EXPECT_EQ(journal.torn_bytes, 0);
  ASSERT_EQ(journal.runs.size(), 3u);
  EXPECT_EQ(journal.runs[2].attempts.at(0).done.subject.status, "failed");
}

TEST(Journal, NobodysOtherFileIsEmptied) {
  Folder folder;
  append_text(folder / "config.json", "{\"hidden_size\": 576}");
  EXPECT_THROW(JournalWriter(folder / "config.json", sample::environment("run-1")), Error);
  EXPECT_EQ(read_file(folder / "config.json"), "{\"hidden_size\": 576}");
}

TEST(Journal, OneWriterAtATime) {
  Folder folder;
  JournalWriter writer(folder / "j.jsonl", sample::environment("run-1"));
  try {
    JournalWriter second(folder / "j.jsonl", sample::environment("run-2"));
    FAIL() << "two writers";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("another run is writing"), std::string::npos) << e.what();
  }
}

TEST(Journal, UnknownKeysAreKept) {
  Folder folder;
  std::string text = write_sample(folder / "j.jsonl");
  const std::string row = "\"metric\":\"output_tok_s\"";
  text.replace(text.find(row), row.size(), row + ",\"colour\":\"green\"");
  const Journal journal = parse_journal(text, "j");
  EXPECT_EQ(journal.runs[0].attempts[0].rows[0].more["colour"], "green");
}

TEST(Journal, ErrorsNameTheLine) {
  Folder folder;
  const std::vector<std::string> l = lines_of(write_sample(folder / "j.jsonl"));
  ASSERT_EQ(l.size(), 11u);  // environment, 3 rows, done, done, environment, 3 rows, done
  const auto contains = [](const std::string& text, const std::vector<std::string>& parts) {
    for (const std::string& part : parts)
      if (text.find(part) == std::string::npos) return false;
    return true;
  };
  std::string e = error_of(l[1] + l[2]);
  EXPECT_TRUE(contains(e, {"first line", "line 1"})) << e;
  e = error_of(l[0] + l[1] + "{\"kind\":\n" + l[2]);
  EXPECT_TRUE(contains(e, {"line 3", "JSON"})) << e;
  e = error_of(l[0] + l[1] + l[3] + l[4]);
  EXPECT_TRUE(contains(e, {"line 4", "should have 3 rows, has 2"})) << e;
  e = error_of(l[0] + l[1] + l[6]);
  EXPECT_TRUE(contains(e, {"line 3", "begins inside a case"})) << e;
  e = error_of(l[0] + l[1] + l[2] + l[3] + l[4] + l[1] + l[2] + l[3] + l[4]);
  EXPECT_TRUE(contains(e, {"line 9", "twice"})) << e;
  e = error_of(l[0] + l[7]);
  EXPECT_TRUE(contains(e, {"line 2", "run_id"})) << e;
  e = error_of(l[0] + l[0]);
  EXPECT_TRUE(contains(e, {"line 2", "begins twice"})) << e;
  e = error_of(l[0] + l[1] + l[2] + l[7]);
  EXPECT_TRUE(contains(e, {"line 4"})) << e;
  std::string wrong = l[1];
  wrong.replace(wrong.find("\"value\":20.0"), 12, "\"value\":\"x\"");
  e = error_of(l[0] + wrong + l[2]);
  EXPECT_TRUE(contains(e, {"line 2", "\"value\" should be a finite number"})) << e;
  std::string newer = l[0];
  newer.replace(newer.find("\"schema_version\":1"), 18, "\"schema_version\":2");
  e = error_of(newer);
  EXPECT_TRUE(contains(e, {"line 1", "schema_version is 2"})) << e;
  e = error_of("hello");
  EXPECT_TRUE(contains(e, {"not a journal"})) << e;
}

TEST(Journal, RefusesRowsThatLie) {
  Folder folder;
  JournalWriter writer(folder / "j.jsonl", sample::environment("run-1"));
  const Record about = sample::common();
  const auto refuses = [&](const std::function<void(Record&)>& change) {
    std::vector<Record> rows = sample::speed_rows(about, 20);
    change(rows[0]);
    EXPECT_THROW(writer.append_case(sample::done(about), rows), Error);
  };
  refuses([](Record& r) { r.metric = "tokens_per_fortnight"; });
  refuses([](Record& r) { r.unit = "tok/h"; });
  refuses([](Record& r) { r.value = std::numeric_limits<double>::quiet_NaN(); });
  refuses([](Record& r) { r.weights = "fp6"; });
  refuses([](Record& r) { r.measured_on = "h100"; });  // without cross_target
  refuses([](Record& r) { r.metric.clear(); });
  EXPECT_THROW(measured(about, "nonsense", 1), Error);
  EXPECT_EQ(read_file(folder / "j.jsonl"), "");
}

TEST(Journal, HoldsNoPathsOfTheHost) {
  EXPECT_EQ(without_host_paths("cannot open /home/ann/models/x.safetensors: no such file"),
            "cannot open x.safetensors: no such file");
  EXPECT_EQ(without_host_paths("decode/b8, 1000/1000, model/gpu/fp8"), "decode/b8, 1000/1000, model/gpu/fp8");
  EXPECT_EQ(without_host_paths("--dir=/srv/a/b/ (/x/y)"), "--dir=b (y)");
  Folder folder;
  JournalWriter writer(folder / "j.jsonl", sample::environment("run-1"));
  CaseDone failed = sample::done(sample::common());
  failed.subject.status = "failed";
  failed.subject.error_msg = "cannot open /home/ann/models/x.safetensors";
  failed.subject.more["notes"] = Json::array({"/home/ann/notes"});
  writer.append_case(failed, {});
  EXPECT_EQ(read_file(folder / "j.jsonl").find("/home"), std::string::npos);
}

TEST(Journal, RunIdsSortByTime) {
  const std::string a = new_run_id();
  ::usleep(2000);
  const std::string b = new_run_id();
  EXPECT_LT(a, b);
  EXPECT_EQ(a.size(), 36u);
  EXPECT_EQ(a[14], '7');
}

}  // namespace
}  // namespace qg
