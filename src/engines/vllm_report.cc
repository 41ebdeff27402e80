// The JSON of `vllm bench throughput` and `vllm bench latency`. (vLLM, vllm/benchmarks/throughput.py and latency.py.)
// They name neither version nor cache type: both come from the log (run_log.h).
#include <fmt/format.h>

#include <charconv>
#include <cmath>

#include "core/error.h"
#include "core/json.h"
#include "engines/reports.h"

namespace qg {
namespace {

constexpr size_t kMostRounds = 1'000'000;

[[noreturn]] void refuse(const std::string& problem, const std::string& where) {
  throw Error(
      problem, where,
      fmt::format("this Quantgrid reads what `vllm bench` {} writes; install one of these, or add its format to "
                  "src/engines/vllm_report.cc",
                  kKnownVllm));
}

double positive(const Json& value, std::string_view name, const std::string& where) {
  if (!value.is_number()) refuse(fmt::format("{} is not a number", name), where);
  const double v = value.get<double>();
  if (!std::isfinite(v) || v <= 0 || v > 1e15)
    refuse(fmt::format("{} is {}, which no measurement gives", name, v), where);
  return v;
}

double needed(const Json& report, const char* key, const std::string& where) {
  if (!report.is_object() || !report.contains(key))
    refuse(fmt::format("not a report of vllm bench: there is no \"{}\"", key), where);
  return positive(report.at(key), key, where);
}

}  // namespace

EngineReport parse_vllm_throughput(std::string_view json, const std::string& where) {
  const Json report = parse_json(json, where);
  EngineReport r;
  r.seconds = needed(report, "elapsed_time", where);
  const double requests = needed(report, "num_requests", where), tokens = needed(report, "total_num_tokens", where);
  r.requests_s = needed(report, "requests_per_second", where);
  r.total_tok_s = needed(report, "tokens_per_second", where);
  // A file whose figures contradict each other is not what we think it is.
  if (std::abs(requests / *r.seconds / *r.requests_s - 1) > 0.01 ||
      std::abs(tokens / *r.seconds / *r.total_tok_s - 1) > 0.01)
    refuse("requests, tokens and time do not give the rates that stand beside them", where);
  if (requests > 1e12 || requests != std::floor(requests)) refuse("num_requests is not a count", where);
  r.requests = static_cast<int64_t>(requests);
  return r;
}

EngineReport parse_vllm_latency(std::string_view json, const std::string& where) {
  const Json report = parse_json(json, where);
  EngineReport r;
  const double mean = needed(report, "avg_latency", where);
  if (!report.contains("latencies") || !report.at("latencies").is_array())
    refuse("not a report of vllm bench latency: there is no list \"latencies\"", where);
  const Json& list = report.at("latencies");
  if (list.empty() || list.size() > kMostRounds) refuse(fmt::format("{} rounds", list.size()), where);
  double sum = 0;
  for (const Json& value : list) {
    r.round_seconds.push_back(positive(value, "a latency", where));
    sum += r.round_seconds.back();
  }
  if (std::abs(sum / static_cast<double>(list.size()) / mean - 1) > 0.01)
    refuse("avg_latency is not the mean of the latencies beside it", where);
  return r;
}

bool is_known_vllm(std::string_view version) {
  if (!version.starts_with("0.")) return false;
  version.remove_prefix(2);
  int minor = 0;
  const auto [rest, code] = std::from_chars(version.data(), version.data() + version.size(), minor);
  return code == std::errc() && minor >= 10 && minor <= 19 &&
         (rest == version.data() + version.size() || *rest == '.' || *rest == 'r');
}

}  // namespace qg
