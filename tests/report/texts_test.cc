#include "report/texts.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <regex>
#include <set>

#include "core/error.h"
#include "core/file.h"
#include "report/explain.h"

namespace qg {
namespace {

std::multiset<std::string> placeholders(std::string_view text) {
  std::multiset<std::string> found;
  static const std::regex kPlace(R"(\{\d\})");
  const std::string copy(text);
  for (std::sregex_iterator it(copy.begin(), copy.end(), kPlace), end; it != end; ++it) found.insert(it->str());
  return found;
}

TEST(Texts, EveryKeyHasBothLanguages) {
  std::set<std::string_view> keys;
  for (const Text& text : texts()) {
    EXPECT_TRUE(keys.insert(text.key).second) << text.key << " stands twice";
    EXPECT_FALSE(text.en.empty()) << text.key;
    EXPECT_FALSE(text.zh.empty()) << text.key;
    EXPECT_EQ(placeholders(text.en), placeholders(text.zh)) << text.key;
  }
  EXPECT_GT(keys.size(), 100u);
}

// Keys that code asks for, literally or as a family ("use." + name).
TEST(Texts, CodeAndTableAgree) {
  std::string code;
  for (const char* folder : {"/src/report", "/apps/quantgrid"})
    for (const auto& file : std::filesystem::directory_iterator(std::string(QG_SOURCE_DIR) + folder))
      if (file.path().extension() == ".cc" && file.path().filename() != "texts.cc") code += read_file(file.path());
  static const std::regex kAsked(R"rx(say\(\s*"([a-z_]+\.[a-z_0-9]+)")rx");
  for (std::sregex_iterator it(code.begin(), code.end(), kAsked), end; it != end; ++it)
    EXPECT_NO_THROW(text_of(Language::en, (*it)[1].str())) << (*it)[1].str();
  for (const Text& text : texts()) {
    const std::string key(text.key), family = key.substr(0, key.find('.') + 1);
    const bool used = code.find("\"" + key + "\"") != std::string::npos ||
                      code.find("\"" + family + "\"") != std::string::npos || key.ends_with(".title");
    EXPECT_TRUE(used) << key << " is in the table and nobody says it";
  }
}

// "1.02 times the baseline's, more than 1.02" says nothing.
TEST(Texts, AReasonShowsOnWhichSideOfTheLimitItIs) {
  const Speaker say(Language::en);
  const auto text = [&](ReasonCode code, double value, double limit) {
    return reason_text({code, "", value, limit}, say);
  };
  EXPECT_EQ(text(ReasonCode::ppl_too_high, 1.0488, 1.02), "perplexity 1.05 times the baseline's, more than 1.02");
  EXPECT_EQ(text(ReasonCode::ppl_too_high, 1.0220, 1.02), "perplexity 1.022 times the baseline's, more than 1.02");
  EXPECT_EQ(text(ReasonCode::kld_too_high, 0.0500001, 0.05), "KL divergence 0.0500001 nats, more than 0.05");
}

TEST(Texts, UnknownKeyIsAnError) {
  EXPECT_THROW(text_of(Language::en, "no.such"), Error);
}

TEST(Texts, Figures) {
  EXPECT_EQ(figure(12345.6), "12,346");
  EXPECT_EQ(figure(1234567), "1,234,567");
  EXPECT_EQ(figure(999.6), "1,000");
  EXPECT_EQ(figure(812.4), "812");
  EXPECT_EQ(figure(81.24), "81.2");
  EXPECT_EQ(figure(8.124), "8.12");
  EXPECT_EQ(figure(0.0172), "0.0172");
  EXPECT_EQ(figure(0.243), "0.243");
  EXPECT_EQ(figure(0.00002), "2.0e-05");
  EXPECT_EQ(figure(0), "0");
  EXPECT_EQ(figure(-1234), "-1,234");
  EXPECT_EQ(bytes_figure(3.61e9), "3.61 GB");
  EXPECT_EQ(bytes_figure(163e6), "163 MB");
  EXPECT_EQ(signed_percent(0.0155), "+1.6 %");
  EXPECT_EQ(ppl_figure(41.1196), "41.12");
  EXPECT_EQ(half_interval(100, 98, 102), "± 2.0 %");
  EXPECT_EQ(half_interval(0.92, 0.91, 0.93, true), "± 1.0");
}

}  // namespace
}  // namespace qg
