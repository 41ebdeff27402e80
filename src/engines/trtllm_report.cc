// trtllm-bench's report, as JSON and as text. (TensorRT-LLM 1.x, tensorrt_llm/bench/dataclasses/reporting.py and
// statistics.py: keys, units and what each figure counts.)
#include <fmt/format.h>

#include <charconv>
#include <cmath>
#include <map>

#include "core/error.h"
#include "core/json.h"
#include "engines/reports.h"

namespace qg {
namespace {

[[noreturn]] void refuse(const std::string& problem, const std::string& where) {
  throw Error(problem, where,
              fmt::format("this Quantgrid reads reports of trtllm-bench {}; install one of these, or add its format to "
                          "src/engines/trtllm_report.cc",
                          kKnownTrtllm));
}

// kv_cache_dtype is kv_cache_quant_algo after the options were applied; null means the model's own 16-bit type.
std::optional<KvFormat> kv_of(const std::string& word) {
  if (word == "null" || word == "None") return KvFormat::fp16;
  if (word == "FP8") return KvFormat::fp8;
  if (word == "INT8") return KvFormat::int8;
  return std::nullopt;
}

void check_version(const std::string& version, const std::string& where) {
  if (!is_known_trtllm(version))
    refuse(fmt::format("a report of TensorRT-LLM \"{}\", which is not known", version), where);
}

double positive(double value, std::string_view name, const std::string& where) {
  if (!std::isfinite(value) || value <= 0 || value > 1e15)
    refuse(fmt::format("{} is {}, which no measurement gives", name, value), where);
  return value;
}

// A percentile block; its keys are p50, p90, p95, p99, minimum, maximum, average. Some are missing in some versions.
std::optional<double> percentile(const JsonReader& section, const char* block, const char* key) {
  if (!section.has(block)) return std::nullopt;
  const JsonReader values = section.get_object(block);
  if (!values.has(key)) return std::nullopt;
  const double value = values.get_double(key);
  if (!std::isfinite(value) || value < 0 || value > 1e15)
    refuse(fmt::format("{}.{} is {}, which no measurement gives", block, key, value), section.where());
  return value;
}

// Of requests that never streamed, times to the first token are zeros.
std::optional<double> if_positive(std::optional<double> value) {
  return value && *value > 0 ? value : std::nullopt;
}

std::string text_or(const JsonReader& object, const char* key) {
  return object.has(key) ? object.get_string(key) : "";
}

}  // namespace

EngineReport parse_trtllm_report(std::string_view json, const std::string& where, bool any_version) {
  const Json document = parse_json(json, where);
  const JsonReader report(document, where);
  for (const char* section : {"engine", "request_info", "performance"})
    if (!report.has(section)) refuse(fmt::format("not a report of trtllm-bench: there is no \"{}\"", section), where);
  const JsonReader engine = report.get_object("engine"), requests = report.get_object("request_info"),
                   speed = report.get_object("performance");
  EngineReport r;
  r.version = text_or(engine, "version");
  if (!any_version) check_version(r.version, where);
  r.model = text_or(engine, "model");
  r.backend = text_or(engine, "backend");
  r.quantization = text_or(engine, "quantization");
  const Json& engine_json = document.at("engine");  // null has a meaning here
  if (!engine_json.contains("kv_cache_dtype"))
    refuse("the report does not name its cache type (kv_cache_dtype)", where);
  const Json& kv = engine_json.at("kv_cache_dtype");
  r.kv_word = kv.is_string() ? kv.get<std::string>() : kv.is_null() ? "null" : kv.dump();
  r.kv = kv_of(r.kv_word);
  r.requests = requests.get_int("num_requests", {}, 1, int64_t{1} << 40);
  r.concurrent = positive(requests.get_double("avg_num_concurrent_requests"), "avg_num_concurrent_requests", where);
  r.mean_isl = positive(requests.get_double("avg_input_length"), "avg_input_length", where);
  r.mean_osl = positive(requests.get_double("avg_output_length"), "avg_output_length", where);
  r.seconds = positive(speed.get_double("total_latency_ms"), "total_latency_ms", where) / 1e3;
  r.requests_s = positive(speed.get_double("request_throughput_req_s"), "request_throughput_req_s", where);
  r.output_tok_s =
      positive(speed.get_double("system_output_throughput_tok_s"), "system_output_throughput_tok_s", where);
  r.total_tok_s = positive(speed.get_double("system_total_throughput_tok_s"), "system_total_throughput_tok_s", where);
  r.e2e_ms_p50 = percentile(speed, "request_latency_percentiles_ms", "p50");
  r.e2e_ms_p99 = percentile(speed, "request_latency_percentiles_ms", "p99");
  if (!report.has("streaming_metrics")) return r;
  const JsonReader streaming = report.get_object("streaming_metrics");
  r.decode_tok_s_per_request =
      positive(streaming.get_double("token_output_speed_tok_s"), "token_output_speed_tok_s", where);
  r.ttft_ms_p50 = if_positive(percentile(streaming, "ttft_percentiles", "p50"));
  r.ttft_ms_p90 = if_positive(percentile(streaming, "ttft_percentiles", "p90"));
  r.ttft_ms_p99 = if_positive(percentile(streaming, "ttft_percentiles", "p99"));
  r.tpot_ms_p50 = if_positive(percentile(streaming, "tpot_percentiles", "p50"));
  r.tpot_ms_p99 = if_positive(percentile(streaming, "tpot_percentiles", "p99"));
  return r;
}

namespace {

std::string_view trimmed(std::string_view text) {
  const auto from = text.find_first_not_of(" \t\r");
  if (from == std::string_view::npos) return {};
  return text.substr(from, text.find_last_not_of(" \t\r") - from + 1);
}

// "Label:   value" lines of the last report in the log, labels as they are printed.
std::map<std::string, std::string, std::less<>> last_report(std::string_view log) {
  std::map<std::string, std::string, std::less<>> values;
  for (size_t at = 0; at <= log.size();) {
    const size_t end = std::min(log.find('\n', at), log.size());
    const std::string_view line = trimmed(log.substr(at, end - at));
    at = end + 1;
    if (line == "= PYTORCH BACKEND" || line == "= ENGINE DETAILS") values = {{"backend", std::string(line.substr(2))}};
    // After a bracketed word too: "[TTFT] P50    : 12.5"
    const size_t colon = line.find(':');
    if (colon == std::string_view::npos || colon == 0) continue;
    values[std::string(trimmed(line.substr(0, colon)))] = std::string(trimmed(line.substr(colon + 1)));
  }
  return values;
}

}  // namespace

EngineReport parse_trtllm_text(std::string_view log, const std::string& where, bool any_version) {
  const auto values = last_report(log);
  if (!values.contains("backend") || !values.contains("Request Throughput (req/sec)"))
    throw Error("there is no report of trtllm-bench in this text", where,
                "its last lines say why the benchmark did not end");
  const auto text = [&](std::string_view label) {
    const auto found = values.find(label);
    return found == values.end() ? std::string() : found->second;
  };
  const auto number = [&](std::string_view label) -> std::optional<double> {
    const std::string word = text(label);
    if (word.empty()) return std::nullopt;
    double value = 0;
    const auto [rest, code] = std::from_chars(word.data(), word.data() + word.size(), value);
    if (code != std::errc() || (rest != word.data() + word.size() && *rest != ' '))
      refuse(fmt::format("\"{}\" is \"{}\", not a number", label, word), where);
    return positive(value, label, where);
  };
  const auto needed = [&](std::string_view label) {
    const auto value = number(label);
    if (!value) refuse(fmt::format("the report has no \"{}\"", label), where);
    return *value;
  };
  EngineReport r;
  // Renamed between 1.0 and 1.1: "TensorRT-LLM Version", "TensorRT LLM Version".
  r.version = values.contains("TensorRT LLM Version") ? text("TensorRT LLM Version") : text("TensorRT-LLM Version");
  if (!any_version) check_version(r.version, where);
  r.model = text("Model");
  r.backend = text("backend");
  r.quantization = text("Quantization");
  r.kv_word = text("KV Cache Dtype");
  r.kv = kv_of(r.kv_word);
  r.requests = static_cast<int64_t>(needed("Number of requests"));
  r.concurrent = needed("Number of concurrent requests");
  r.mean_isl = needed("Average Input Length (tokens)");
  r.mean_osl = needed("Average Output Length (tokens)");
  r.requests_s = needed("Request Throughput (req/sec)");
  r.output_tok_s = needed("Total Output Throughput (tokens/sec)");
  r.total_tok_s = number("Total Token Throughput (tokens/sec)");
  if (const auto ms = number("Total Latency (ms)")) r.seconds = *ms / 1e3;
  r.decode_tok_s_per_request = number("Per User Output Speed (tps/user)");
  r.ttft_ms_p50 = number("[TTFT] P50");
  r.ttft_ms_p90 = number("[TTFT] P90");
  r.ttft_ms_p99 = number("[TTFT] P99");
  r.tpot_ms_p50 = number("[TPOT] P50");
  r.tpot_ms_p99 = number("[TPOT] P99");
  r.e2e_ms_p50 = number("[Latency] P50");
  r.e2e_ms_p99 = number("[Latency] P99");
  return r;
}

bool is_known_trtllm(std::string_view version) {
  for (std::string_view known : {"1.0", "1.1", "1.2"})
    if (version == known || (version.starts_with(known) && version.substr(known.size()).find_first_of(".r") == 0))
      return true;
  return false;
}

}  // namespace qg
