// docs/schema.md and the tables in code say the same: every row of the page's tables is one of the code's, in its
// order.
#include <gtest/gtest.h>

#include "core/file.h"
#include "record/fields.h"
#include "record/metrics.h"

namespace qg {
namespace {

template <typename T>
std::string table_of(const std::vector<Field<T>>& fields) {
  std::string text = "| field | type | meaning |\n|---|---|---|\n";
  for (const auto& field : fields)
    text += "| `" + std::string(field.name) + "` | " + std::string(type_name(field)) + " | " +
            std::string(field.meaning) + " |\n";
  return text;
}

std::string table_of_metrics() {
  std::string text = "| metric | unit | suite | stat | better | meaning |\n|---|---|---|---|---|---|\n";
  for (const MetricSpec& m : metrics())
    text += "| `" + std::string(m.name) + "` | " + std::string(m.unit) + " | " + std::string(m.suite) + " | " +
            std::string(m.stat) + " | " +
            (m.better == Better::more   ? "more"
             : m.better == Better::less ? "less"
                                        : "–") +
            " | " + std::string(m.meaning) + " |\n";
  return text;
}

// All lines of the page that begin with '|', one table after another.
std::string tables_of_page() {
  const std::string page = read_file(std::string(QG_SOURCE_DIR) + "/docs/schema.md");
  std::string tables;
  for (size_t at = 0; at < page.size();) {
    const size_t end = std::min(page.find('\n', at), page.size());
    if (page[at] == '|') tables += page.substr(at, end - at) + "\n";
    at = end + 1;
  }
  return tables;
}

TEST(Schema, PageAndCodeAgree) {
  EXPECT_EQ(tables_of_page(), table_of(environment_fields()) + table_of(record_fields()) + table_of_metrics())
      << "docs/schema.md is not current: its tables should read as the second text";
}

TEST(Schema, NamesAreUnique) {
  std::set<std::string_view> names;
  for (const auto& field : record_fields()) EXPECT_TRUE(names.insert(field.name).second) << field.name;
  names.clear();
  for (const MetricSpec& m : metrics()) EXPECT_TRUE(names.insert(m.name).second) << m.name;
}

}  // namespace
}  // namespace qg
