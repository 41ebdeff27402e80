// [[workloads]] of a grid file.
#include "grid/load_workload.h"

#include <fmt/format.h>

#include <algorithm>
#include <cctype>
#include <cmath>
#include <limits>

#include "core/error.h"

namespace qg {
namespace {

constexpr int64_t kMaxRateRequests = 1'000'000;

// Arrivals at a rate: how long, and what counts as good.
void read_rate(const TomlReader& row, Workload& w) {
  for (const char* key : {"batch", "rounds"})
    if (row.has(key))
      throw Error(fmt::format("requests of a rate workload arrive one by one; it has no {}", key), row.where(key),
                  "use rate = ... and requests = ...");
  w.rate_per_s = row.get_double("rate", {}, 1e-3, 1e6);
  if (row.has("requests") == row.has("seconds"))
    throw Error(row.has("seconds") ? "a rate workload has requests or seconds, not both"
                                   : "a rate workload must say how long it is: \"requests\" or \"seconds\" is missing",
                row.where("seconds"), "write requests = 300, or seconds = 60 for rate x 60 requests");
  if (row.has("requests")) {
    w.requests = row.get_int("requests", {}, 1, kMaxRateRequests);
  } else {
    const double requests = row.get_double("seconds", {}, 1e-3, 1e6) * w.rate_per_s;
    if (requests > static_cast<double>(kMaxRateRequests) || requests < 0.5)
      throw Error(fmt::format("{:g} seconds at {:g} requests a second are {:g} requests", requests / w.rate_per_s,
                              w.rate_per_s, requests),
                  row.where("seconds"), fmt::format("use 1 to {} requests", kMaxRateRequests));
    w.requests = std::llround(requests);
  }
  w.rounds = 1;
  w.burstiness = row.get_double("burstiness", 1.0, 0.01, 100);
  w.max_ttft_ms = row.has("max_ttft_ms") ? row.get_double("max_ttft_ms", {}, 1e-3, 1e9) : 0;
  w.max_tpot_ms = row.has("max_tpot_ms") ? row.get_double("max_tpot_ms", {}, 1e-3, 1e9) : 0;
  w.seed = static_cast<uint64_t>(
      row.get_int("seed", static_cast<int64_t>(kDefaultArrivalSeed), 0, std::numeric_limits<int64_t>::max()));
}

void read_sizes(const TomlReader& row, Workload& w) {
  w.isl_tokens = row.get_int("isl", {}, 1, kMaxTokens);
  if (w.kind == WorkloadKind::prefill && row.has("osl"))
    throw Error("a prefill workload makes one token; it has no osl", row.where("osl"), "take osl out");
  w.osl_tokens = w.kind == WorkloadKind::prefill ? 1 : row.get_int("osl", {}, 1, kMaxTokens);
  if (w.kind == WorkloadKind::decode && w.osl_tokens < 2)
    throw Error("decode speed is measured after the first token, so osl must be 2 or more", row.where("osl"),
                "use osl = 256");
  if (w.kind == WorkloadKind::rate) return read_rate(row, w);
  for (const char* key : {"rate", "seconds", "burstiness", "max_ttft_ms", "max_tpot_ms", "seed"})
    if (row.has(key))
      throw Error(fmt::format("only a rate workload has {}", key), row.where(key),
                  R"(take it out, or use kind = "rate")");
  if (w.kind == WorkloadKind::throughput) {
    if (row.has("batch"))
      throw Error("a throughput workload offers all requests at once; it has no batch", row.where("batch"),
                  "use requests = ...");
    w.requests = row.get_int("requests", 0, 0, 10'000'000);
    w.rounds = static_cast<int>(row.get_int("rounds", 1, 1, 1000));
    return;
  }
  if (row.has("requests"))
    throw Error("only throughput and rate workloads have requests", row.where("requests"), "use batch = ...");
  w.batch = row.get_int("batch", 1, 1, 65536);
  w.rounds = static_cast<int>(row.get_int("rounds", 5, 1, 1000));
}

}  // namespace

Workload read_workload(const TomlReader& row) {
  row.only({"name", "kind", "isl", "osl", "batch", "requests", "rounds", "profile", "rate", "seconds", "burstiness",
            "max_ttft_ms", "max_tpot_ms", "seed"});
  Workload w;
  w.name = row.get_string("name");
  if (w.name.empty() || w.name.size() > 64 || !std::all_of(w.name.begin(), w.name.end(), [](unsigned char c) {
        return std::isalnum(c) || c == '/' || c == '-' || c == '_' || c == '.';
      }))
    throw Error("a workload's name is 1 to 64 letters, digits, '/', '-', '_' and '.'", row.where("name"),
                R"(for example "decode/b8" or "1000/1000")");
  const std::string kind = row.get_string("kind");
  if (kind == to_string(WorkloadKind::decode))
    w.kind = WorkloadKind::decode;
  else if (kind == to_string(WorkloadKind::throughput))
    w.kind = WorkloadKind::throughput;
  else if (kind == to_string(WorkloadKind::prefill))
    w.kind = WorkloadKind::prefill;
  else if (kind == to_string(WorkloadKind::rate))
    w.kind = WorkloadKind::rate;
  else
    row.not_one_of("kind", kind, {"decode", "throughput", "prefill", "rate"});
  read_sizes(row, w);
  if ((w.kind == WorkloadKind::rate) != w.name.starts_with("rate/"))  // reports and picks go by names
    throw Error(R"(the names of rate workloads, and only theirs, begin with "rate/")", row.where("name"),
                w.kind == WorkloadKind::rate ? R"(for example "rate/8")" : R"(for example "decode/b8" or "1000/1000")");
  if ((w.kind == WorkloadKind::prefill) != w.name.starts_with("prefill/"))  // for the same reason
    throw Error(
        R"(the names of prefill workloads, and only theirs, begin with "prefill/")", row.where("name"),
        w.kind == WorkloadKind::prefill ? R"(for example "prefill/512")" : R"(for example "decode/b8" or "1000/1000")");
  const std::string profile = row.get_string("profile", "quick");
  const auto parsed = parse_profile(profile);
  if (!parsed) row.not_one_of("profile", profile, {"quick", "full"});
  w.profile = *parsed;
  return w;
}

}  // namespace qg
