#include "report/csv.h"

#include "core/json_text.h"
#include "record/fields.h"

namespace qg {
namespace {

// RFC 4180, with an apostrophe before what a spreadsheet would take for a formula.
std::string csv_cell(const Json& value) {
  if (value.is_null()) return {};
  if (!value.is_string() && !value.is_structured()) return value.dump();
  std::string text = value.is_string() ? value.get<std::string>() : json_text(value);
  if (!text.empty() && std::string_view("=+-@\t").find(text[0]) != std::string_view::npos) text.insert(0, "'");
  if (text.find_first_of(",\"\r\n") == std::string::npos) return text;
  std::string quoted = "\"";
  for (char c : text) quoted += c == '"' ? "\"\"" : std::string(1, c);
  return quoted + "\"";
}

}  // namespace

std::string results_as_csv(const Results& results) {
  std::string csv;
  for (const auto& field : record_fields()) csv += std::string(field.name) + ",";
  csv += "chosen,machine,commit\r\n";
  for (const StoredAttempt& stored : results.attempts) {
    const Environment& run = results.run(stored.attempt.done.subject.run_id);
    for (const Record& row : stored.attempt.rows) {
      const Json fields = fields_to_json(row, record_fields());
      for (const auto& field : record_fields()) {
        const auto found = fields.find(std::string(field.name));
        csv += csv_cell(found == fields.end() ? Json() : *found) + ",";
      }
      csv += std::string(stored.chosen ? "true" : "false") + "," + csv_cell(run.machine) + "," + csv_cell(run.commit) +
             "\r\n";
    }
  }
  return csv;
}

}  // namespace qg
