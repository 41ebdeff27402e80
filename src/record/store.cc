#include "record/store.h"

#include <fstream>
#include <map>

#include "core/error.h"
#include "core/file.h"
#include "record/fields.h"
#include "record/sqlite.h"

namespace qg {
namespace {

constexpr int kApplicationId = 0x51475231;  // "QGR1", in the header of the file
constexpr int64_t kMaxStoreBytes = int64_t{1} << 31;

std::string quoted(std::string_view name) {
  return "\"" + std::string(name) + "\"";
}  // "commit" is a word of SQL

template <typename T>
std::string column_declarations(const std::vector<Field<T>>& fields) {
  // In the order of Field's variant: text, two integers, number, yes/no, list.
  constexpr const char* kTypes[] = {"TEXT", "INTEGER", "INTEGER", "REAL", "INTEGER", "TEXT"};
  std::string sql;
  for (const auto& field : fields) sql += quoted(field.name) + " " + kTypes[field.member.index()] + ", ";
  return sql + "more TEXT";
}

template <typename T>
std::string insert_sql(const std::string& table, const std::vector<Field<T>>& fields,
                       const std::vector<std::string>& extra) {
  std::string names, marks;
  for (const auto& field : fields) names += quoted(field.name) + ", ", marks += "?, ";
  for (const std::string& name : extra) names += name + ", ", marks += "?, ";
  return "INSERT INTO " + table + " (" + names + "more) VALUES (" + marks + "?)";
}

template <typename T>
void insert(Statement& statement, const T& value, const std::vector<Field<T>>& fields, const std::vector<Json>& extra) {
  T known = value;
  known.more = Json::object();
  const Json object = fields_to_json(known, fields);
  int index = 1;
  for (const auto& field : fields) {
    const auto found = object.find(std::string(field.name));
    statement.bind(index++, found == object.end() ? Json() : *found);
  }
  for (const Json& element : extra) statement.bind(index++, element);
  statement.bind(index, value.more.empty() ? Json() : value.more);
  statement.step();
  statement.reset();
}

// A row of a table back into the JSON that a journal line has.
template <typename T>
Json as_line(Json row, const std::vector<Field<T>>& fields, const std::string& where) {
  for (const auto& field : fields) {
    const auto found = row.find(std::string(field.name));
    if (found == row.end() || found->is_null()) continue;
    const std::string_view type = type_name(field);
    if (type == "yes/no") *found = found->is_number_integer() && found->template get<int64_t>() != 0;
    if (type == "list" && found->is_string()) *found = parse_json(found->template get_ref<const std::string&>(), where);
  }
  const auto more = row.find("more");
  if (more != row.end()) {
    const Json kept =
        more->is_string() ? parse_json(more->template get_ref<const std::string&>(), where) : Json::object();
    row.erase("more");
    if (!kept.is_object()) throw Error("column more should hold a JSON object", where);
    for (const auto& [key, element] : kept.items()) row[key] = element;
  }
  return row;
}

constexpr const char* kResultsView =
    "CREATE VIEW results AS SELECT m.model, m.weights, m.kv, m.target, m.measured_on, m.cross_target, m.synthetic, "
    "m.engine, m.workload, m.metric, m.value, m.unit, m.ci_lo, m.ci_hi, m.compute_path, r.\"commit\", m.ended_at AS "
    "date "
    "FROM measurements m JOIN cases c USING (run_id, case_key, attempt) JOIN runs r USING (run_id) "
    "WHERE c.chosen = 1 AND m.valid = 1 AND m.round IS NULL AND m.rep IS NULL";

void create_tables(Database& db) {
  db.run("PRAGMA page_size = 4096; PRAGMA application_id = " + std::to_string(kApplicationId) +
         "; PRAGMA user_version = " + std::to_string(kSchemaVersion));
  db.run("CREATE TABLE runs (" + column_declarations(environment_fields()) + ", PRIMARY KEY (run_id))");
  db.run("CREATE TABLE cases (" + column_declarations(record_fields()) +
         ", rows INTEGER NOT NULL, seconds REAL, chosen INTEGER NOT NULL, disagrees INTEGER NOT NULL, "
         "PRIMARY KEY (run_id, case_key, attempt))");
  db.run("CREATE TABLE measurements (" + column_declarations(record_fields()) +
         ", place INTEGER NOT NULL, PRIMARY KEY (run_id, case_key, attempt, place))");
  db.run(kResultsView);
}

}  // namespace

void write_store(const std::filesystem::path& file, const Results& results) {
  Database db(file.string());
  create_tables(db);
  db.run("BEGIN");
  Statement run(db, insert_sql("runs", environment_fields(), {}));
  Statement done(db, insert_sql("cases", record_fields(), {"rows", "seconds", "chosen", "disagrees"}));
  Statement measurement(db, insert_sql("measurements", record_fields(), {"place"}));
  for (const Environment& environment : results.runs) insert(run, environment, environment_fields(), {});
  for (const StoredAttempt& stored : results.attempts) {
    const CaseDone& end = stored.attempt.done;
    insert(done, end.subject, record_fields(), {end.rows, end.seconds, stored.chosen, stored.disagrees});
    int64_t place = 0;
    for (const Record& row : stored.attempt.rows) insert(measurement, row, record_fields(), {place++});
  }
  db.run("COMMIT");
  write_file(file, db.bytes());
}

bool is_store(const std::filesystem::path& file) {
  std::ifstream in(file, std::ios::binary);
  char head[16] = {};
  in.read(head, sizeof head);
  return in.gcount() == sizeof head && std::string_view(head, 15) == "SQLite format 3";
}

std::vector<JournalRun> read_store(const std::filesystem::path& file) {
  const std::string where = file.string();
  const Database db(where, read_file(file, kMaxStoreBytes));
  Statement id(db, "PRAGMA application_id");
  if (!id.step() || id.row()["application_id"] != kApplicationId)
    throw Error("is an SQLite file, but not a store of quantgrid", where, "give the file that `quantgrid merge` wrote");
  Statement version(db, "PRAGMA user_version");
  if (!version.step() || version.row()["user_version"] != kSchemaVersion)
    throw Error("the store has another schema version than " + std::to_string(kSchemaVersion), where,
                "merge the journals again with this version");

  std::map<std::string, JournalRun> runs;
  for (Statement s(db, "SELECT * FROM runs ORDER BY run_id"); s.step();) {
    JournalRun run;
    run.environment = fields_from_json(as_line(s.row(), environment_fields(), where), environment_fields(), where);
    const std::string run_id = run.environment.run_id;
    runs[run_id] = std::move(run);
  }
  Statement rows(db, "SELECT * FROM measurements WHERE run_id = ? AND case_key = ? AND attempt = ? ORDER BY place");
  for (Statement s(db, "SELECT * FROM cases ORDER BY run_id, ended_at, case_key, attempt"); s.step();) {
    const Json line = as_line(s.row(), record_fields(), where);
    Attempt attempt;
    attempt.done.subject = fields_from_json(line, record_fields(), where, {"rows", "seconds", "chosen", "disagrees"});
    const Record& subject = attempt.done.subject;
    const JsonReader reader(line, where);
    attempt.done.rows = reader.get_int("rows", {}, 0);
    attempt.done.seconds = reader.get_double("seconds", 0);
    rows.reset();
    rows.bind(1, subject.run_id);
    rows.bind(2, subject.case_key);
    rows.bind(3, subject.attempt);
    while (rows.step()) {
      attempt.rows.push_back(
          fields_from_json(as_line(rows.row(), record_fields(), where), record_fields(), where, {"place"}));
      if (!attempt.rows.back().value) throw Error("a measurement of case " + subject.case_key + " has no value", where);
    }
    const auto run = runs.find(subject.run_id);
    if (run == runs.end()) throw Error("case " + subject.case_key + " belongs to no run of the store", where);
    run->second.attempts.push_back(std::move(attempt));
  }
  std::vector<JournalRun> list;
  for (auto& [run_id, run] : runs) list.push_back(std::move(run));
  return list;
}

}  // namespace qg
