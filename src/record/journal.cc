#include "record/journal.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <set>
#include <tuple>

#include "core/error.h"
#include "core/file.h"
#include "core/file_lock.h"
#include "record/fields.h"

namespace qg {
namespace {

namespace fs = std::filesystem;
constexpr int64_t kMaxJournalBytes = int64_t{1} << 30;

std::string line_text(const char* kind, const Json& fields) {
  Json line = Json::object();
  line["kind"] = kind;
  for (const auto& [key, value] : fields.items()) line[key] = value;
  return line.dump(-1, ' ', false, Json::error_handler_t::replace) + "\n";
}

Json scrubbed(Json value) {
  if (value.is_string()) return without_host_paths(value.get_ref<const std::string&>());
  if (value.is_structured())
    for (Json& element : value) element = scrubbed(std::move(element));
  return value;
}

std::string measurement_line(const Record& row) {
  return line_text("measurement", scrubbed(fields_to_json(row, record_fields())));
}

std::string done_line(const CaseDone& done) {
  Json fields = scrubbed(fields_to_json(done.subject, record_fields()));
  fields["rows"] = done.rows;
  fields["seconds"] = done.seconds;
  return line_text("case_done", fields);
}

// Reads the lines of one journal one after another.
class Parser {
 public:
  explicit Parser(const std::string& file) : file_(file) {}

  // `end_bytes`: offset behind this line.
  void take(std::string_view text, int64_t number, int64_t end_bytes) {
    where_ = file_ + ", line " + std::to_string(number);
    const Json line = parse_json(text, where_);
    const std::string kind = JsonReader(line, where_).get_string("kind");
    if (kind == "environment") {
      take_environment(line);
    } else if (journal_.runs.empty()) {
      throw Error("the first line should be an environment object, is \"" + kind + "\"", where_,
                  "give the whole journal, from its first line");
    } else if (kind == "measurement") {
      take_measurement(line);
    } else if (kind == "case_done") {
      take_done(line);
    } else {
      throw Error("\"kind\" should be environment, measurement or case_done, is \"" + kind + "\"", where_);
    }
    if (pending_.empty()) journal_.sound_bytes = end_bytes;
  }

  Journal take_journal() { return std::move(journal_); }

 private:
  void take_environment(const Json& line) {
    if (!pending_.empty())
      throw Error("a run begins inside a case that has " + std::to_string(pending_.size()) + " rows and no end", where_,
                  "remove the rows before this line: their case was not finished");
    JournalRun run;
    run.environment = fields_from_json(line, environment_fields(), where_, {"kind"});
    if (run.environment.schema_version != kSchemaVersion)
      throw Error("schema_version is " + std::to_string(run.environment.schema_version) + ", this program reads " +
                      std::to_string(kSchemaVersion),
                  where_, "use the version of quantgrid that wrote it");
    if (run.environment.run_id.empty()) throw Error("key \"run_id\" is missing", where_);
    if (!run_ids_.insert(run.environment.run_id).second)
      throw Error("run " + run.environment.run_id + " begins twice", where_, "remove the copy");
    journal_.runs.push_back(std::move(run));
  }

  void check_place(const Record& record) const {
    if (record.run_id != journal_.runs.back().environment.run_id)
      throw Error(
          "run_id is \"" + record.run_id + "\", the run's is \"" + journal_.runs.back().environment.run_id + "\"",
          where_);
    if (record.case_key.empty()) throw Error("key \"case_key\" is missing", where_);
    if (!parse_case_status(record.status))
      throw Error("key \"status\" has an unknown value, \"" + record.status + "\"", where_);
  }

  void take_measurement(const Json& line) {
    Record row = fields_from_json(line, record_fields(), where_, {"kind"});
    check_place(row);
    if (row.metric.empty()) throw Error("key \"metric\" is missing", where_);
    if (!row.value) throw Error("key \"value\" is missing", where_);
    if (!pending_.empty() && (row.case_key != pending_[0].case_key || row.attempt != pending_[0].attempt))
      throw Error("a row of case " + row.case_key + " stands among those of case " + pending_[0].case_key, where_);
    pending_.push_back(std::move(row));
  }

  void take_done(const Json& line) {
    Attempt attempt;
    attempt.done.subject = fields_from_json(line, record_fields(), where_, {"kind", "rows", "seconds"});
    const JsonReader reader(line, where_);
    attempt.done.rows = reader.get_int("rows", {}, 0);
    attempt.done.seconds = reader.get_double("seconds", 0);
    const Record& subject = attempt.done.subject;
    check_place(subject);
    if (attempt.done.rows != static_cast<int64_t>(pending_.size()))
      throw Error(
          "the case should have " + std::to_string(attempt.done.rows) + " rows, has " + std::to_string(pending_.size()),
          where_, "a line was removed or added; take the journal from where it was written");
    if (!pending_.empty() && (subject.case_key != pending_[0].case_key || subject.attempt != pending_[0].attempt))
      throw Error("case " + subject.case_key + " ends among the rows of case " + pending_[0].case_key, where_);
    if (!attempts_.insert({subject.run_id, subject.case_key, subject.attempt}).second)
      throw Error("case " + subject.case_key + " attempt " + std::to_string(subject.attempt) + " stands here twice",
                  where_, "remove the copy");
    attempt.rows = std::move(pending_);
    pending_.clear();
    journal_.runs.back().attempts.push_back(std::move(attempt));
  }

  std::string file_, where_;
  Journal journal_;
  std::vector<Record> pending_;  // rows since the last case_done
  std::set<std::string> run_ids_;
  std::set<std::tuple<std::string, std::string, int64_t>> attempts_;
};

[[noreturn]] void fail(const std::string& what, const fs::path& file) {
  const int code = errno;
  throw Error(what + ": " + std::strerror(code), file.string(),
              code == ENOSPC ? "free disk space, then run the same command again" : "check path and permissions");
}

// A torn line at the very beginning is cut only if it may be the begin of a journal: nobody's other file is emptied.
void check_torn_beginning(std::string_view text, const std::string& where) {
  constexpr std::string_view kBegin = "{\"kind\":\"environment\"";
  const size_t length = std::min(text.size(), kBegin.size());
  if (text.substr(0, length) != kBegin.substr(0, length))
    throw Error("is not a journal: the first line should be an environment object", where,
                "give a .jsonl file that `quantgrid run` wrote");
}

}  // namespace

Journal parse_journal(std::string_view text, const std::string& where) {
  Parser parser(where);
  size_t at = 0;
  for (int64_t number = 1; at < text.size(); ++number) {
    const size_t end = text.find('\n', at);
    if (end == std::string_view::npos) {  // a torn line: nothing ends it
      if (at == 0) check_torn_beginning(text, where);
      break;
    }
    parser.take(text.substr(at, end - at), number, static_cast<int64_t>(end) + 1);
    at = end + 1;
  }
  Journal journal = parser.take_journal();
  journal.torn_bytes = static_cast<int64_t>(text.size()) - journal.sound_bytes;
  return journal;
}

Journal read_journal(const fs::path& file) {
  return parse_journal(read_file(file, kMaxJournalBytes), file.string());
}

JournalWriter::JournalWriter(const fs::path& file, Environment environment)
    : file_(file), environment_(std::move(environment)) {
  if (environment_.run_id.empty()) throw Error("a run needs an id", file.string());
  open_and_lock();
  try {
    take_content();
  } catch (...) {
    close();
    throw;
  }
}

// Another writer may take its empty file away between open and lock. Whoever then holds the lock of a file that no
// longer has the name would write for nobody, so that it is made again.
void JournalWriter::open_and_lock() {
  for (;;) {
    if (!file_.parent_path().empty()) folder_.emplace(file_.parent_path());
    fd_ = ::open(file_.c_str(), O_RDWR | O_CLOEXEC);
    is_new_ = fd_ < 0 && errno == ENOENT && !fs::is_symlink(file_);
    if (fd_ < 0) fd_ = ::open(file_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (fd_ < 0) fail("the journal cannot be opened", file_);
    if (::flock(fd_, LOCK_EX | LOCK_NB) != 0) {
      const int code = errno;
      ::close(fd_);
      errno = code;
      if (errno != EWOULDBLOCK) fail("the journal cannot be locked", file_);
      throw Error("another run is writing to this journal", file_.string(),
                  "wait for it to end, or name another journal with --journal");
    }
    if (has_name(fd_, file_)) return;
    ::close(fd_);
  }
}

void JournalWriter::take_content() {
  Journal journal = read_journal(file_);
  cut_bytes_ = journal.torn_bytes;
  end_bytes_ = journal.sound_bytes;
  if (cut_bytes_ > 0 && ::ftruncate(fd_, end_bytes_) != 0) fail("the torn end cannot be cut", file_);
  for (JournalRun& run : journal.runs) {
    environment_written_ |= run.environment.run_id == environment_.run_id;
    for (Attempt& attempt : run.attempts) {
      const std::string key = attempt.done.subject.case_key;
      done_[key] |= is_final(*parse_case_status(attempt.done.subject.status));
      newest_[key] = std::move(attempt);
    }
  }
}

void JournalWriter::close() {
  struct stat status {};
  if (is_new_ && ::fstat(fd_, &status) == 0 && status.st_size == 0) ::unlink(file_.c_str());  // still locked
  ::close(fd_);                                                                               // drops the lock
}

JournalWriter::~JournalWriter() {
  close();
}

bool JournalWriter::is_done(const std::string& case_key) const {
  const auto found = done_.find(case_key);
  return found != done_.end() && found->second;
}

const Attempt* JournalWriter::last_attempt(const std::string& case_key) const {
  const auto found = newest_.find(case_key);
  return found == newest_.end() ? nullptr : &found->second;
}

void JournalWriter::append_case(CaseDone done, std::vector<Record> rows) {
  Record& subject = done.subject;
  const Attempt* last = last_attempt(subject.case_key);
  subject.run_id = environment_.run_id;
  subject.attempt = last ? last->done.subject.attempt + 1 : 1;
  if (subject.ended_at.empty()) subject.ended_at = utc_now();
  check_record(subject);
  done.rows = static_cast<int64_t>(rows.size());

  std::string batch;
  if (!environment_written_)
    batch = line_text("environment", scrubbed(fields_to_json(environment_, environment_fields())));
  for (Record& row : rows) {
    row.run_id = subject.run_id;
    row.attempt = subject.attempt;
    row.case_key = subject.case_key;
    row.case_id = subject.case_id;
    row.ended_at = subject.ended_at;
    if (row.metric.empty()) throw Error("a result cannot be recorded: a row has no metric", "case " + subject.case_key);
    check_record(row);
    batch += measurement_line(row);
  }
  write_synced(batch + done_line(done));
  environment_written_ = true;
  done_[subject.case_key] |= is_final(*parse_case_status(subject.status));
  const std::string key = subject.case_key;
  newest_[key] = Attempt{std::move(done), std::move(rows)};
}

void JournalWriter::write_synced(const std::string& text) {
  // What was not written whole, or not synced, is cut: the next batch may be shorter and would leave its end standing.
  const auto cut_and_fail = [&] {
    const int code = errno;
    [[maybe_unused]] const int cut = ::ftruncate(fd_, end_bytes_);  // should it fail, the next writer cuts
    errno = code;
    fail("the journal cannot be written", file_);
  };
  size_t put = 0;
  while (put < text.size()) {
    const ssize_t wrote = ::pwrite(fd_, text.data() + put, text.size() - put, end_bytes_ + static_cast<int64_t>(put));
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote < 0) cut_and_fail();
    put += static_cast<size_t>(wrote);
  }
  if (::fsync(fd_) != 0) cut_and_fail();  // network file systems tell of a full disk here
  end_bytes_ += static_cast<int64_t>(text.size());
}

}  // namespace qg
