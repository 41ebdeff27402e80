#include "checkpoint/strict_json.h"

#include <unordered_set>
#include <vector>

#include "core/error.h"
#include "core/file.h"

namespace qg {
namespace {

constexpr size_t kMaxDepth = 64;

// Walks the text without building anything; remembers the keys of the objects that are open.
class KeyCheck final : public nlohmann::json_sax<nlohmann::json> {
 public:
  explicit KeyCheck(const std::string& where) : where_(where) {}

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(std::size_t) override { return open(); }
  bool end_object() override { return close(); }
  bool start_array(std::size_t) override { return open(); }
  bool end_array() override { return close(); }

  bool key(string_t& name) override {
    if (!keys_.back().insert(name).second)
      throw Error("key \"" + name.substr(0, 200) + "\" appears twice in one object", where_,
                  "the file is broken: fetch or write it again");
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& e) override {
    std::string reason = e.what();
    if (const size_t colon = reason.find("] "); colon != std::string::npos) reason = reason.substr(colon + 2);
    throw Error("not valid JSON at byte " + std::to_string(position) + ": " + reason, where_);
  }

 private:
  bool open() {
    if (keys_.size() == kMaxDepth) throw Error("JSON nested deeper than 64", where_);
    keys_.emplace_back();
    return true;
  }
  bool close() {
    keys_.pop_back();
    return true;
  }

  const std::string& where_;
  std::vector<std::unordered_set<std::string>> keys_;
};

}  // namespace

void check_strict_json(std::string_view text, const std::string& where) {
  KeyCheck check(where);
  nlohmann::json::sax_parse(text.begin(), text.end(), &check);
}

Json read_strict_json(const std::filesystem::path& path, int64_t max_bytes) {
  const std::string text = read_file(path, max_bytes);
  check_strict_json(text, path.string());
  return parse_json(text, path.string());
}

}  // namespace qg
