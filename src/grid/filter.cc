#include "grid/filter.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <charconv>
#include <limits>

#include "core/error.h"
#include "grid/grid.h"
#include "grid/names.h"

namespace qg {
namespace {

using Keep = std::function<bool(const Case&)>;

constexpr size_t kMaxExpression = 4096;
constexpr int kMaxDepth = 64;

const std::vector<std::string>& keys() {
  static const std::vector<std::string> kKeys{"number", "section", "model", "gpu", "weights", "kv", "id"};
  return kKeys;
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::transform(out.begin(), out.end(), out.begin(), [](unsigned char c) { return std::tolower(c); });
  return out;
}

std::string field(const Case& c, std::string_view key) {
  if (key == "section") return std::string(to_string(c.section));
  if (key == "model") return c.model;
  if (key == "gpu") return c.gpu;
  if (key == "weights") return std::string(to_string(c.weights));
  if (key == "kv") return std::string(to_string(c.kv));
  return c.id();
}

// `*` stands for any letters.
bool matches(std::string_view pattern, std::string_view text) {
  size_t p = 0, t = 0, star = std::string_view::npos, resume = 0;
  while (t < text.size()) {
    if (p < pattern.size() && pattern[p] == '*') {
      star = p++;
      resume = t;
    } else if (p < pattern.size() && pattern[p] == text[t]) {
      ++p, ++t;
    } else if (star != std::string_view::npos) {
      p = star + 1;
      t = ++resume;
    } else {
      return false;
    }
  }
  return pattern.find_first_not_of('*', p) == std::string_view::npos;
}

// or := and ('|' and)* ; and := unary ('&' unary)* ; unary := '!' unary | '(' or ')' | key operator value (',' value)*
class Parser {
 public:
  Parser(std::string_view text, const Grid& grid) : text_(text), grid_(grid) {}

  Keep parse() {
    if (text_.size() > kMaxExpression)
      throw Error(fmt::format("the filter is {} characters long; {} are allowed", text_.size(), kMaxExpression),
                  "--filter");
    skip_space();
    if (at_ == text_.size()) fail("the filter is empty", "write for example gpu=a100 & weights=int4_awq");
    Keep keep = parse_or();
    if (at_ < text_.size()) {
      if (text_[at_] == ')') fail("there is no opening parenthesis for this one", "take it out");
      fail("\"&\" or \"|\" is expected here", "join conditions with & (and) or | (or)");
    }
    return keep;
  }

 private:
  // The expression with a caret under the place of the trouble. Only printable ASCII keeps its width, so that is shown.
  [[noreturn]] void fail_at(size_t at, const std::string& what, const std::string& fix) const {
    std::string line;
    for (char c : text_) line += c >= 0x20 && c < 0x7f ? c : '?';
    throw Error(fmt::format("{} (character {})\n    {}\n    {}^", what, at + 1, line, std::string(at, ' ')), "--filter",
                fix);
  }
  [[noreturn]] void fail(const std::string& what, const std::string& fix) const { fail_at(at_, what, fix); }

  void skip_space() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
  }

  // Takes the sign, doubled or not ("&&" is "&"), and the space behind it.
  bool take(char sign) {
    if (at_ >= text_.size() || text_[at_] != sign) return false;
    ++at_;
    if ((sign == '&' || sign == '|') && at_ < text_.size() && text_[at_] == sign) ++at_;
    skip_space();
    return true;
  }

  Keep parse_or() {
    Keep keep = parse_and();
    while (take('|')) keep = [a = std::move(keep), b = parse_and()](const Case& c) { return a(c) || b(c); };
    return keep;
  }

  Keep parse_and() {
    Keep keep = parse_unary();
    while (take('&')) keep = [a = std::move(keep), b = parse_unary()](const Case& c) { return a(c) && b(c); };
    return keep;
  }

  Keep parse_unary() {
    if (++depth_ > kMaxDepth) fail("the filter is nested too deeply", "write it with fewer parentheses");
    Keep keep;
    if (take('!')) {
      keep = [inner = parse_unary()](const Case& c) { return !inner(c); };
    } else if (at_ < text_.size() && text_[at_] == '(') {
      const size_t open = at_;
      take('(');
      keep = parse_or();
      if (!take(')')) fail_at(open, "this parenthesis is not closed", "add )");
    } else {
      keep = parse_condition();
    }
    --depth_;
    return keep;
  }

  std::string take_word() {
    const size_t begin = at_;
    while (at_ < text_.size() && (std::isalnum(static_cast<unsigned char>(text_[at_])) ||
                                  std::string_view("._-/*").find(text_[at_]) != std::string_view::npos))
      ++at_;
    std::string word = lower(text_.substr(begin, at_ - begin));
    skip_space();
    return word;
  }

  // One of = == != <= >= < >; "==" comes out as "=".
  std::string take_operator() {
    for (std::string_view sign : {"==", "!=", "<=", ">=", "=", "<", ">"})
      if (text_.substr(at_).starts_with(sign)) {
        at_ += sign.size();
        skip_space();
        return sign == "==" ? "=" : std::string(sign);
      }
    fail("an operator is expected here", "use = or != (and < <= > >= for number)");
  }

  Keep parse_condition() {
    const size_t key_at = at_;
    const std::string key = take_word();
    if (key.empty()) fail_at(key_at, "a condition is expected here", "write for example gpu=a100");
    if (std::find(keys().begin(), keys().end(), key) == keys().end())
      fail_at(key_at, fmt::format("\"{}\" is not a key of a case", key), suggestion(key, keys()));
    const size_t operator_at = at_;
    const std::string sign = take_operator();
    if (key != "number" && sign != "=" && sign != "!=")
      fail_at(operator_at, fmt::format("\"{}\" does not go with {}", sign, key), "use = or !=");
    return key == "number" ? parse_numbers(sign) : parse_words(key, sign);
  }

  Keep parse_words(const std::string& key, const std::string& sign) {
    std::vector<std::string> patterns;
    do {
      const size_t value_at = at_;
      const std::string value = take_word();
      if (value.empty()) fail_at(value_at, fmt::format("a value for {} is expected here", key), allowed_text(key));
      check_value(key, value, value_at);
      patterns.push_back(value);
    } while (take(','));
    return [key, patterns, wanted = sign == "="](const Case& c) {
      const std::string text = field(c, key);
      return wanted == std::any_of(patterns.begin(), patterns.end(),
                                   [&](const std::string& pattern) { return matches(pattern, text); });
    };
  }

  Keep parse_numbers(const std::string& sign) {
    std::vector<std::pair<int, int>> ranges;
    do {
      const size_t value_at = at_;
      const std::string value = take_word();
      ranges.push_back(parse_range(value, sign, value_at));
    } while (take(','));
    return [ranges, wanted = sign != "!="](const Case& c) {
      return wanted == std::any_of(ranges.begin(), ranges.end(), [&](const auto& range) {
               return c.number >= range.first && c.number <= range.second;
             });
    };
  }

  // The range of numbers that "<= 30" or "= 1-10" stands for.
  std::pair<int, int> parse_range(const std::string& value, const std::string& sign, size_t value_at) const {
    constexpr int kLargest = std::numeric_limits<int>::max();
    const auto number = [&](std::string_view text) {
      int n = 0;
      const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
      if (error != std::errc{} || end != text.data() + text.size() || n < 0 || n == kLargest)
        fail_at(value_at, fmt::format("\"{}\" is not a number or a range of numbers", value),
                "write number=7, number=1-10 or number<=30");
      return n;
    };
    const size_t dash = value.find('-');
    if (dash != std::string::npos && (sign == "=" || sign == "!=")) {
      const std::pair<int, int> range{number(std::string_view(value).substr(0, dash)),
                                      number(std::string_view(value).substr(dash + 1))};
      if (range.first > range.second)
        fail_at(value_at, fmt::format("the range {} runs backwards", value), "put the smaller number first");
      return range;
    }
    const int n = number(value);
    if (sign == "<") return {0, n - 1};
    if (sign == "<=") return {0, n};
    if (sign == ">") return {n + 1, kLargest};
    if (sign == ">=") return {n, kLargest};
    return {n, n};
  }

  std::vector<std::string> allowed(std::string_view key) const {
    std::vector<std::string> names;
    if (key == "section")
      for (Section s : kSections) names.emplace_back(to_string(s));
    if (key == "weights")
      for (WeightFormat f : kWeightFormats) names.emplace_back(to_string(f));
    if (key == "kv")
      for (KvFormat f : kKvFormats) names.emplace_back(to_string(f));
    if (key == "model") return grid_.model_names();
    if (key == "gpu") return grid_.gpu_ids();
    return names;
  }

  static std::string suggestion(std::string_view value, const std::vector<std::string>& names) {
    const std::string near = nearest_name(value, names);
    return fmt::format("{}one of: {}", near.empty() ? "" : fmt::format("did you mean \"{}\"? ", near),
                       fmt::join(names, ", "));
  }

  std::string allowed_text(std::string_view key) const {
    if (key == "id") return "write for example id=*/a100/*/kv_fp8";
    return fmt::format("one of: {}", fmt::join(allowed(key), ", "));
  }

  // A word that no case can have is a slip, not a filter that keeps nothing.
  void check_value(std::string_view key, const std::string& value, size_t value_at) const {
    if (key == "id") return;
    const std::vector<std::string> names = allowed(key);
    if (std::none_of(names.begin(), names.end(), [&](const std::string& name) { return matches(value, name); }))
      fail_at(value_at, fmt::format("no case of this grid can have {} \"{}\"", key, value), suggestion(value, names));
  }

  std::string_view text_;
  const Grid& grid_;
  size_t at_ = 0;
  int depth_ = 0;
};

}  // namespace

Filter::Filter(std::string_view expression, const Grid& grid) : keep_(Parser(expression, grid).parse()) {}

std::vector<Case> filtered(const std::vector<Case>& cases, const Filter& filter) {
  std::vector<Case> kept;
  std::copy_if(cases.begin(), cases.end(), std::back_inserter(kept), [&](const Case& c) { return filter.keeps(c); });
  return kept;
}

}  // namespace qg
