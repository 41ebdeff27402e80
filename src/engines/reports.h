#pragma once
// What engines' own benchmarks report, in our units. Each reader takes what one tool writes and refuses, with a clear
// message, what it does not know: a figure that is read wrongly is worse than none. Formats and their sources stand at
// the readers (trtllm_report.cc, vllm_report.cc); samples lie under tests/golden/engines/samples.
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "core/format.h"

namespace qg {

// Empty where the report does not say.
struct EngineReport {
  std::string version, model, backend, quantization;
  std::string kv_word;         // the cache type as the report spells it: "FP8", "null"
  std::optional<KvFormat> kv;  // empty when it is none of ours, or not said

  std::optional<int64_t> requests;
  std::optional<double> concurrent, mean_isl, mean_osl;  // requests at once, tokens in and out
  std::optional<double> seconds;                         // first request to last token
  std::optional<double> output_tok_s, total_tok_s, requests_s;
  std::optional<double> decode_tok_s_per_request;  // mean over requests of (tokens out - 1) / (last - first token)
  std::optional<double> ttft_ms_p50, ttft_ms_p90, ttft_ms_p99, tpot_ms_p50, tpot_ms_p99, e2e_ms_p50, e2e_ms_p99;
  std::vector<double> round_seconds;  // of benchmarks that time whole rounds
};

// The file that `trtllm-bench … --report_json` writes. `where` names it in errors. Throws Error: not JSON, not such a
// report, a version that is not known (unless any_version), a figure that is missing or no number.
EngineReport parse_trtllm_report(std::string_view json, const std::string& where, bool any_version = false);
// The same report as text at the end of trtllm-bench's output; other lines are passed over. The last one counts.
EngineReport parse_trtllm_text(std::string_view log, const std::string& where, bool any_version = false);

// The files that `vllm bench throughput` and `vllm bench latency` write (--output-json).
EngineReport parse_vllm_throughput(std::string_view json, const std::string& where);
EngineReport parse_vllm_latency(std::string_view json, const std::string& where);

// "1.1.0rc1" is of 1.1. Versions whose commands and reports are known: TensorRT-LLM 1.0 to 1.2, vLLM 0.10 to 0.19.
bool is_known_trtllm(std::string_view version);
bool is_known_vllm(std::string_view version);
inline constexpr const char* kKnownTrtllm = "1.0 to 1.2";
inline constexpr const char* kKnownVllm = "0.10 to 0.19";

}  // namespace qg
