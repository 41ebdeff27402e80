#include "record/sqlite.h"

#include <sqlite3.h>

#include <cstring>

#include "core/error.h"

namespace qg {

void Database::Close::operator()(sqlite3* db) const {
  sqlite3_close_v2(db);
}
void Statement::Finalize::operator()(sqlite3_stmt* statement) const {
  sqlite3_finalize(statement);
}

Database::Database(std::string where, std::string_view image) : where_(std::move(where)) {
  sqlite3* db = nullptr;
  const int code =
      sqlite3_open_v2(":memory:", &db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX, nullptr);
  db_.reset(db);
  if (code != SQLITE_OK) fail("SQLite cannot be set up");
  if (image.empty()) return;
  auto* copy = static_cast<unsigned char*>(sqlite3_malloc64(image.size()));
  if (!copy) fail("there is not enough memory to read it");
  std::memcpy(copy, image.data(), image.size());
  const auto size = static_cast<sqlite3_int64>(image.size());
  if (sqlite3_deserialize(db, "main", copy, size, size, SQLITE_DESERIALIZE_FREEONCLOSE | SQLITE_DESERIALIZE_READONLY) !=
      SQLITE_OK)
    fail("is not a readable SQLite file");
  run("PRAGMA trusted_schema = OFF");
}

void Database::fail(const std::string& what) const {
  throw Error(what + ": " + sqlite3_errmsg(db_.get()), where_);
}

void Database::run(const std::string& sql) {
  if (sqlite3_exec(db_.get(), sql.c_str(), nullptr, nullptr, nullptr) != SQLITE_OK) fail("the store cannot be used");
}

std::string Database::bytes() const {
  sqlite3_int64 size = 0;
  unsigned char* image = sqlite3_serialize(db_.get(), "main", &size, 0);
  if (!image) fail("the store cannot be written");
  std::string out(reinterpret_cast<char*>(image), static_cast<size_t>(size));
  sqlite3_free(image);
  return out;
}

Statement::Statement(const Database& db, const std::string& sql) : db_(&db) {
  sqlite3_stmt* statement = nullptr;
  if (sqlite3_prepare_v2(db.db_.get(), sql.c_str(), -1, &statement, nullptr) != SQLITE_OK)
    db.fail("is not a store of quantgrid");
  statement_.reset(statement);
}

void Statement::bind(int index, const Json& value) {
  sqlite3_stmt* s = statement_.get();
  int code = SQLITE_OK;
  if (value.is_null())
    code = sqlite3_bind_null(s, index);
  else if (value.is_boolean())
    code = sqlite3_bind_int64(s, index, value.get<bool>() ? 1 : 0);
  else if (value.is_number_integer())
    code = sqlite3_bind_int64(s, index, value.get<int64_t>());
  else if (value.is_number())
    code = sqlite3_bind_double(s, index, value.get<double>());
  else {
    const std::string text =
        value.is_string() ? value.get<std::string>() : value.dump(-1, ' ', false, Json::error_handler_t::replace);
    code = sqlite3_bind_text(s, index, text.data(), static_cast<int>(text.size()), SQLITE_TRANSIENT);
  }
  if (code != SQLITE_OK) db_->fail("the store cannot be written");
}

bool Statement::step() {
  const int code = sqlite3_step(statement_.get());
  if (code != SQLITE_ROW && code != SQLITE_DONE) db_->fail("the store cannot be used");
  return code == SQLITE_ROW;
}

void Statement::reset() {
  sqlite3_reset(statement_.get());
}

Json Statement::row() const {
  sqlite3_stmt* s = statement_.get();
  Json out = Json::object();
  for (int i = 0; i < sqlite3_column_count(s); ++i) {
    Json& value = out[sqlite3_column_name(s, i)];
    switch (sqlite3_column_type(s, i)) {
      case SQLITE_INTEGER:
        value = static_cast<int64_t>(sqlite3_column_int64(s, i));
        break;
      case SQLITE_FLOAT:
        value = sqlite3_column_double(s, i);
        break;
      case SQLITE_TEXT:
        value = std::string(reinterpret_cast<const char*>(sqlite3_column_text(s, i)),
                            static_cast<size_t>(sqlite3_column_bytes(s, i)));
        break;
      case SQLITE_NULL:
        break;
      default:
        throw Error(std::string("column ") + sqlite3_column_name(s, i) + " holds bytes, not a value", db_->where());
    }
  }
  return out;
}

}  // namespace qg
