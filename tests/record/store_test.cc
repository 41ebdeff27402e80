#include "record/store.h"

#include <algorithm>
#include <random>

#include "core/error.h"
#include "core/file.h"
#include "record/fields.h"
#include "tests/record/sample.h"

namespace qg {
namespace {

using sample::Folder;

std::filesystem::path journal(const Folder& folder, const std::string& name, double tok_s, const std::string& ended_at,
                              bool valid = true) {
  JournalWriter writer(folder / name, sample::environment("run-" + name, ended_at));
  for (const char* workload : {"decode/b1", "decode/b8"}) {
    CaseDone end = sample::done(sample::common(workload), ended_at);
    end.subject.valid = valid;
    writer.append_case(end, sample::speed_rows(sample::common(workload), tok_s));
  }
  return folder / name;
}

TEST(Store, DoesNotDependOnOrder) {
  Folder folder;
  std::vector<std::filesystem::path> files;
  for (int i = 0; i < 6; ++i)
    files.push_back(journal(folder, "j" + std::to_string(i), 20 + i, "2026-11-2" + std::to_string(i) + "T00:00:00Z"));
  write_store(folder / "first.db", load_results(files));
  const std::string first = read_file(folder / "first.db");
  std::mt19937 random(7);
  for (int round = 0; round < 10; ++round) {
    std::shuffle(files.begin(), files.end(), random);
    files.push_back(files[0]);  // a journal given twice changes nothing
    write_store(folder / "again.db", load_results(files));
    EXPECT_EQ(read_file(folder / "again.db"), first);
    files.pop_back();
  }
  // A store may be merged on, in any order too.
  write_store(folder / "part.db", load_results({files[0], files[1]}));
  files.push_back(folder / "part.db");
  write_store(folder / "again.db", load_results(files));
  EXPECT_EQ(read_file(folder / "again.db"), first);
}

TEST(Store, RoundTrip) {
  Folder folder;
  Results before;
  {
    JournalWriter writer(folder / "j.jsonl", sample::environment("run-1"));
    Record about = sample::common();
    about.more["colour"] = "green";
    about.kernels = Json::array({Json{{"name", "sm80_w4a16"}, {"share", 0.75}}});
    about.case_number = 5;
    about.synthetic = true;
    writer.append_case(sample::done(about), sample::speed_rows(about, 1.0 / 3));
    before = load_results({folder / "j.jsonl"});
  }
  write_store(folder / "all.db", before);
  EXPECT_TRUE(is_store(folder / "all.db"));
  EXPECT_FALSE(is_store(folder / "j.jsonl"));
  const Results after = load_results({folder / "all.db"});
  EXPECT_EQ(after.runs, before.runs);
  ASSERT_EQ(after.attempts.size(), 1u);
  EXPECT_EQ(after.attempts[0].attempt, before.attempts[0].attempt);
}

TEST(Store, NewestValidAttemptWins) {
  Folder folder;
  const Results results = load_results({journal(folder, "old", 20, "2026-11-20T00:00:00Z"),
                                        journal(folder, "new", 20.1, "2026-11-21T00:00:00Z"),
                                        journal(folder, "bad", 50, "2026-11-22T00:00:00Z", false)});
  ASSERT_EQ(results.attempts.size(), 6u) << "all are kept";
  const auto chosen = results.chosen();
  ASSERT_EQ(chosen.size(), 2u);
  for (const Attempt* attempt : chosen) EXPECT_EQ(attempt->done.subject.run_id, "run-new");
  for (const StoredAttempt& stored : results.attempts) EXPECT_FALSE(stored.disagrees);
}

TEST(Store, DisagreeingDuplicatesAreFlagged) {
  Folder folder;
  const Results results = load_results(
      {journal(folder, "old", 20, "2026-11-20T00:00:00Z"), journal(folder, "new", 24, "2026-11-21T00:00:00Z")});
  int flagged = 0;
  for (const StoredAttempt& stored : results.attempts) {
    flagged += stored.disagrees;
    if (stored.disagrees) {
      EXPECT_EQ(stored.attempt.done.subject.run_id, "run-old");
    }
  }
  EXPECT_EQ(flagged, 2);
}

TEST(Store, ChangedCopyOfARunIsRefused) {
  Folder folder;
  const auto file = journal(folder, "a", 20, "2026-11-20T00:00:00Z");
  std::string text = read_file(file);
  text.replace(text.find("\"value\":20.0"), 12, "\"value\":99.0");
  write_file(folder / "b", text);
  EXPECT_THROW(load_results({file, folder / "b"}), Error);
}

TEST(Store, RefusesForeignFiles) {
  Folder folder;
  write_file(folder / "x.db", std::string("SQLite format 3\0", 16) + std::string(200, 'x'));
  EXPECT_THROW(load_results({folder / "x.db"}), Error);
  const auto file = journal(folder, "a", 20, "2026-11-20T00:00:00Z");
  write_store(folder / "all.db", load_results({file}));
  std::string text = read_file(folder / "all.db");
  text[68] = 'x';  // application id, in the header
  write_file(folder / "y.db", text);
  EXPECT_THROW(load_results({folder / "y.db"}), Error);
  EXPECT_THROW(load_results({folder / "absent.jsonl"}), Error);
}

}  // namespace
}  // namespace qg
