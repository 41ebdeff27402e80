#pragma once
// The little of SQLite that the store needs: a database in memory, statements that throw, and its bytes.
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "core/json.h"

struct sqlite3;
struct sqlite3_stmt;

namespace qg {

class Database {
 public:
  // `where` names the file in errors; `image`: the bytes of a database file to read, or empty for a new one.
  explicit Database(std::string where, std::string_view image = {});
  void run(const std::string& sql);
  std::string bytes() const;  // the database as a file would hold it
  const std::string& where() const { return where_; }

 private:
  friend class Statement;
  [[noreturn]] void fail(const std::string& what) const;
  struct Close {
    void operator()(sqlite3* db) const;
  };
  std::string where_;
  std::unique_ptr<sqlite3, Close> db_;
};

class Statement {
 public:
  Statement(const Database& db, const std::string& sql);
  void bind(int index, const Json& value);  // null, bool, numbers, text; lists and objects as JSON text
  bool step();                              // true while there is a row
  void reset();
  Json row() const;  // {column: value}; text that is not UTF-8 throws

 private:
  struct Finalize {
    void operator()(sqlite3_stmt* statement) const;
  };
  const Database* db_;
  std::unique_ptr<sqlite3_stmt, Finalize> statement_;
};

}  // namespace qg
