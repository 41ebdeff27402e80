#include "runtime/tuning_file.h"

#include <fmt/format.h>
#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <tuple>

#include "core/error.h"
#include "core/file.h"
#include "core/json.h"

namespace qg {
namespace {

constexpr int64_t kVersion = 1, kMostBytes = int64_t{16} << 20, kMostSize = int64_t{1} << 32;
constexpr size_t kAlgorithmDigits = 128;

Json identity_json(const TuningIdentity& id) {
  return {{"card", id.card},
          {"family", id.family},
          {"multiprocessors", id.multiprocessors},
          {"library", id.library},
          {"kernels", id.kernels}};
}

TuningIdentity identity_of(const JsonReader& r) {
  return {r.get_string("card"), r.get_string("family"), static_cast<int>(r.get_int("multiprocessors", {}, 0, 1 << 20)),
          r.get_int("library"), r.get_string("kernels")};
}

TunedProduct product_of(const JsonReader& r) {
  TunedProduct p;
  p.kind = r.get_string("kind");
  p.y_type = r.get_string("y_type");
  p.m = r.get_int("m", {}, 1, kMostSize);
  p.n = r.get_int("n", {}, 1, kMostSize);
  p.k = r.get_int("k", {}, 1, kMostSize);
  p.weight_pitch = r.get_int("weight_pitch", {}, 1, kMostSize);
  p.y_pitch = r.get_int("y_pitch", {}, 1, kMostSize);
  p.algorithm = r.get_string("algorithm");
  p.us = r.get_double("us");
  if (p.algorithm.size() != kAlgorithmDigits || p.algorithm.find_first_not_of("0123456789abcdef") != std::string::npos)
    throw Error(fmt::format("\"algorithm\" is not {} hexadecimal digits", kAlgorithmDigits), r.where());
  return p;
}

TunedRoute route_of(const JsonReader& r) {
  TunedRoute t;
  t.layer = r.get_string("layer");
  t.m = r.get_int("m", {}, 1, kMostSize);
  t.route = r.get_string("route");
  const Json& times = r.get("us");
  if (!times.is_object()) throw Error("\"us\" is not an object", r.where());
  for (const auto& [name, value] : times.items()) {
    if (!value.is_number()) throw Error("\"us\" holds something that is no number", r.where());
    t.us[name] = value.get<double>();
  }
  if (!t.us.contains(t.route)) throw Error("\"route\" is none of those in \"us\"", r.where());
  return t;
}

template <class Entry, class Read>
void read_list(const JsonReader& file, const char* key, std::vector<Entry>& to, const Read& read) {
  const Json& list = file.get(key);
  if (!list.is_array()) throw Error(fmt::format("\"{}\" is not a list", key), file.where());
  for (size_t i = 0; i < list.size(); ++i)
    to.push_back(read(JsonReader(list[i], fmt::format("{}, {} {}", file.where(), key, i))));
}

auto key_of(const TunedProduct& p) {
  return std::make_tuple(p.kind, p.y_type, p.n, p.k, p.weight_pitch, p.y_pitch, p.m);
}
auto key_of(const TunedRoute& r) {
  return std::make_tuple(r.layer, r.m);
}

// Later entries replace earlier ones of the same key.
template <class Entry>
std::vector<Entry> merged(const std::vector<Entry>& before, const std::vector<Entry>& now) {
  std::map<decltype(key_of(now.front())), Entry> by_key;
  for (const auto* list : {&before, &now})
    for (const Entry& entry : *list) by_key.insert_or_assign(key_of(entry), entry);
  std::vector<Entry> all;
  for (auto& [key, entry] : by_key) all.push_back(std::move(entry));
  return all;
}

}  // namespace

std::filesystem::path default_tuning_file(const TuningIdentity& identity) {
  const passwd* user = getpwuid(getuid());
  if (!user || !user->pw_dir || !*user->pw_dir) return {};
  std::string card = identity.card;
  for (char& c : card)
    if (!std::isalnum(static_cast<unsigned char>(c))) c = '-';
  return std::filesystem::path(user->pw_dir) / ".cache" / "quantgrid" /
         fmt::format("tuning-{}-{}.json", card, identity.family);
}

TuningFile read_any_tuning(const std::filesystem::path& file) {
  const Json json = read_json(file, kMostBytes);
  const JsonReader r(json, file.string());
  if (r.get_int("version") != kVersion) throw Error("is of another version of this program", file.string());
  TuningFile found;
  found.measured_on = identity_of(r.get_object("measured_on"));
  read_list(r, "products", found.table.products, product_of);
  read_list(r, "routes", found.table.routes, route_of);
  return found;
}

TuningRead read_tuning(const std::filesystem::path& file, const TuningIdentity& identity) {
  TuningRead read;
  std::error_code code;  // where it cannot even be looked for, there is none
  if (file.empty() || !std::filesystem::exists(file, code)) return read;
  try {
    TuningFile all = read_any_tuning(file);
    const TuningIdentity& found = all.measured_on;
    if (found == identity)
      read.table = std::move(all.table);
    else
      read.problem = fmt::format("{} was measured with {}", file.string(),
                                 found.card != identity.card         ? "another card, " + found.card
                                 : found.kernels != identity.kernels ? "other kernels, " + found.kernels
                                 : found.library != identity.library ? fmt::format("cuBLASLt {}", found.library)
                                                                     : "another kernel family or card size");
  } catch (const Error& e) {
    read.problem = e.what();
  }
  return read;
}

void write_tuning(const std::filesystem::path& file, const TuningIdentity& identity, const TuningTable& table) {
  const TuningTable before = read_tuning(file, identity).table;
  Json json{{"version", kVersion}, {"measured_on", identity_json(identity)}};
  json["products"] = Json::array();
  for (const TunedProduct& p : merged(before.products, table.products))
    json["products"].push_back({{"kind", p.kind},
                                {"y_type", p.y_type},
                                {"m", p.m},
                                {"n", p.n},
                                {"k", p.k},
                                {"weight_pitch", p.weight_pitch},
                                {"y_pitch", p.y_pitch},
                                {"algorithm", p.algorithm},
                                {"us", p.us}});
  json["routes"] = Json::array();
  for (const TunedRoute& r : merged(before.routes, table.routes))
    json["routes"].push_back({{"layer", r.layer}, {"m", r.m}, {"route", r.route}, {"us", r.us}});
  std::error_code code;
  if (file.has_parent_path()) std::filesystem::create_directories(file.parent_path(), code);
  if (code) throw Error("the folder cannot be made: " + code.message(), file.parent_path().string());
  write_file(file, json.dump(1) + "\n");
}

std::string describe_tuning(const TuningTable& table) {
  std::string text;
  const std::vector<TunedRoute> routes = merged<TunedRoute>({}, table.routes);
  for (size_t i = 0; i < routes.size(); ++i) {
    const TunedRoute& r = routes[i];
    const bool first = i == 0 || routes[i - 1].layer != r.layer;
    if (first) text += r.layer + "\n";
    text += fmt::format("  {:>5} rows  {:<16}", r.m, r.route);
    for (const auto& [name, us] : r.us) text += fmt::format("  {} {:.1f} us", name, us);
    if (!first && routes[i - 1].route != r.route) text += fmt::format("  <- {} from here on", r.route);
    text += "\n";
  }
  text += fmt::format("{} products of the library have their algorithm measured\n", table.products.size());
  return text;
}

}  // namespace qg
