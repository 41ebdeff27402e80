#pragma once
// What a card costs an hour, from a user's file: TOML or JSON, card = number, and optionally currency = "USD".
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "report/study.h"

namespace qg {

struct Prices {
  std::string currency = "USD";
  std::map<std::string, double> per_hour;  // by card: "h100"

  // Cost of a million output tokens at this speed; empty when the card has no price.
  std::optional<double> per_million_tokens(std::string_view gpu, double output_tok_s) const;
};

Prices load_prices(const std::filesystem::path& file);  // throws Error naming file, key and what is allowed
Prices parse_prices(std::string_view text, const std::string& where);

// Prices against the cards of a report, in words; empty when every price is of one of them. A price of what is no card
// at all, as a slip in its name makes one, throws Error.
std::string unused_prices(const Prices& prices, const Study& study, const std::string& where);

}  // namespace qg
