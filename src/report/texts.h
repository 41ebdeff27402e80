#pragma once
// All words of the report, in English and Chinese, in one table. {0}, {1} … are filled in.
#include <fmt/format.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace qg {

enum class Language { en, zh };
std::optional<Language> parse_language(std::string_view name);
std::string_view to_string(Language language);

struct Text {
  std::string_view key, en, zh;
};
const std::vector<Text>& texts();

std::string_view text_of(Language language, std::string_view key);  // throws Error when there is no such key

class Speaker {
 public:
  explicit Speaker(Language language) : language_(language) {}
  Language language() const { return language_; }
  template <typename... Args>
  std::string operator()(std::string_view key, const Args&... args) const {
    return fmt::vformat(text_of(language_, key), fmt::make_format_args(args...));
  }

 private:
  Language language_;
};

// Figures for people: 12,345 · 812 · 81.2 · 8.12 · 0.0312; bytes as MB or GB (10^6, 10^9).
std::string figure(double value);
std::string percent(double share, int decimals = 1);         // "1.2 %"
std::string signed_percent(double share, int decimals = 1);  // "+1.2 %"
std::string bytes_figure(double bytes);
std::string ppl_figure(double ppl);  // 41.12
// Half an interval: "± 1.5 %" of the value, or "± 0.7" percentage points for a share.
std::string half_interval(double value, double low, double high, bool as_points = false);

}  // namespace qg
