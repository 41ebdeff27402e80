#pragma once
// The journal: append-only JSONL that a kill at any moment leaves sound. A run begins with an environment line; a case
// is one batch (its measurement lines and a case_done line) written by one call and synced. What follows the last
// case_done is the case that was running: readers pass over it, and the next writer cuts it.
#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/new_folder.h"
#include "record/environment.h"
#include "record/record.h"

namespace qg {

struct Attempt {
  CaseDone done;
  std::vector<Record> rows;
  bool operator==(const Attempt&) const = default;
};

struct JournalRun {
  Environment environment;
  std::vector<Attempt> attempts;  // in the order of the file
  bool operator==(const JournalRun&) const = default;
};

struct Journal {
  std::vector<JournalRun> runs;
  int64_t sound_bytes = 0;  // length up to and with the last case_done (or a whole environment line before it)
  int64_t torn_bytes = 0;   // what follows: a case that was running, or a torn line
};

// Strict: throws Error naming file and line for anything but a torn end. `where` names the file in errors.
Journal parse_journal(std::string_view text, const std::string& where);
Journal read_journal(const std::filesystem::path& file);

class JournalWriter {
 public:
  // Makes the file or goes on with it; cuts a torn end. Throws Error when another process writes to it, or when its
  // content is not sound. The environment line is written with the first case, so that a run with nothing to do leaves
  // the file as it was. A new file is there at once, since it is what is locked; when nothing was recorded it goes away
  // with the writer, and so do the folders that were made for it.
  JournalWriter(const std::filesystem::path& file, Environment environment);
  ~JournalWriter();
  JournalWriter(const JournalWriter&) = delete;
  JournalWriter& operator=(const JournalWriter&) = delete;

  // A final attempt (is_final()) with this key is in the file.
  bool is_done(const std::string& case_key) const;
  // The newest attempt at this key in the file; null when there is none. Valid until the next append_case().
  const Attempt* last_attempt(const std::string& case_key) const;

  // Writes the rows and the case_done line, and syncs. done.subject.case_key must be set; run_id, attempt, case_key,
  // case_id and ended_at of all lines are filled here. Absolute paths in texts are cut to their last component.
  void append_case(CaseDone done, std::vector<Record> rows);

  const Environment& environment() const { return environment_; }
  const std::filesystem::path& file() const { return file_; }
  int64_t cut_bytes() const { return cut_bytes_; }  // torn bytes that were cut at opening

 private:
  void open_and_lock();
  void take_content();
  void close();
  void write_synced(const std::string& text);

  std::filesystem::path file_;
  Environment environment_;
  std::optional<NewFolder> folder_;
  int fd_ = -1;
  bool is_new_ = false;    // this writer made the file
  int64_t end_bytes_ = 0;  // where the next batch begins
  int64_t cut_bytes_ = 0;
  bool environment_written_ = false;
  std::map<std::string, Attempt> newest_;
  std::map<std::string, bool> done_;
};

}  // namespace qg
