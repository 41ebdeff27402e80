#include "report/prices.h"

#include <fmt/format.h>
#include <toml++/toml.h>
#include <cmath>
#include <set>
#include <sstream>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"
#include "grid/cards.h"
#include "grid/names.h"

namespace qg {
namespace {

constexpr int64_t kMaxPriceBytes = 1 << 20;

void add_price(Prices& prices, const std::string& card, std::optional<double> price, const std::string& where) {
  if (!is_valid_name(card))
    throw Error("\"" + card + "\" is not the id of a card", where, "write cards as in grids: h100, l4");
  if (!price || !std::isfinite(*price) || *price < 0)
    throw Error("the price of " + card + " should be a number that is not negative", where,
                "for example: " + card + " = 2.5");
  prices.per_hour[card] = *price;
}

Json toml_as_json(std::string_view text, const std::string& where) {
  try {
    const toml::table table = toml::parse(text);
    std::ostringstream json;
    json << toml::json_formatter{table};
    return parse_json(json.str(), where);
  } catch (const toml::parse_error& e) {
    throw Error("not valid TOML: " + std::string(e.description()),
                where + ", line " + std::to_string(e.source().begin.line), "a line is: h100 = 2.5");
  }
}

}  // namespace

std::optional<double> Prices::per_million_tokens(std::string_view gpu, double output_tok_s) const {
  const auto found = per_hour.find(std::string(gpu));
  if (found == per_hour.end() || output_tok_s <= 0) return {};
  return found->second / 3600 / output_tok_s * 1e6;
}

Prices parse_prices(std::string_view text, const std::string& where) {
  const size_t first = text.find_first_not_of(" \t\r\n");
  const bool is_json = first != std::string_view::npos && text[first] == '{';
  const Json table = is_json ? parse_json(text, where) : toml_as_json(text, where);
  if (!table.is_object()) throw Error("should be a table of cards and prices", where);
  Prices prices;
  for (const auto& [key, value] : table.items()) {
    if (key == "currency") {
      if (!value.is_string() || value.get<std::string>().empty() || value.get<std::string>().size() > 8)
        throw Error("currency should be a short text", where, "for example: currency = \"USD\"");
      prices.currency = value.get<std::string>();
    } else if (key == "per_hour" && value.is_object()) {
      for (const auto& [card, price] : value.items())
        add_price(prices, card, price.is_number() ? std::optional(price.get<double>()) : std::nullopt, where);
    } else {
      add_price(prices, key, value.is_number() ? std::optional(value.get<double>()) : std::nullopt, where);
    }
  }
  if (prices.per_hour.empty()) throw Error("names no price", where, "add a line: h100 = 2.5 (currency per hour)");
  return prices;
}

std::string unused_prices(const Prices& prices, const Study& study, const std::string& where) {
  std::set<std::string> here;
  for (const Group& group : study.groups) here.insert(group.gpu);
  const std::string has =
      here.empty() ? "the report has no results" : fmt::format("the report has {}", fmt::join(here, ", "));
  std::vector<std::string> known(here.begin(), here.end()), unknown, unused;  // what is here is meant first
  for (const std::string& id : card_ids()) known.push_back(id);
  for (const auto& [card, price] : prices.per_hour) {
    if (here.contains(card)) continue;
    (study.card(card) ? unused : unknown).push_back(card);
  }
  if (!unknown.empty()) {
    const std::string near = nearest_name(unknown.front(), known);
    throw Error(fmt::format("no card is called {}", fmt::join(unknown, ", ")), where,
                (near.empty() ? "" : "did you mean \"" + near + "\"? ") + has);
  }
  if (unused.empty()) return {};
  if (unused.size() == prices.per_hour.size())
    return fmt::format("{}: none of the prices is used, there are no results of {}; {}", where, fmt::join(unused, ", "),
                       has);
  return fmt::format("{}: there are no results of {}, whose prices are not used; {}", where, fmt::join(unused, ", "),
                     has);
}

Prices load_prices(const std::filesystem::path& file) {
  return parse_prices(read_file(file, kMaxPriceBytes), file.string());
}

}  // namespace qg
