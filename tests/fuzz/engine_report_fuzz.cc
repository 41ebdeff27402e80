// Any bytes as what an engine reports or prints: an Error, or figures that are numbers of a measurement.
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "core/error.h"
#include "engines/reports.h"
#include "engines/run_log.h"

namespace {

void check(const qg::EngineReport& r) {
  for (const std::optional<double>& value :
       {r.concurrent, r.mean_isl, r.mean_osl, r.seconds, r.output_tok_s, r.total_tok_s, r.requests_s,
        r.decode_tok_s_per_request, r.ttft_ms_p50, r.ttft_ms_p90, r.ttft_ms_p99, r.tpot_ms_p50, r.tpot_ms_p99})
    if (value && !(std::isfinite(*value) && *value > 0)) std::abort();
  for (double seconds : r.round_seconds)
    if (!(std::isfinite(seconds) && seconds > 0)) std::abort();
  if (r.requests && *r.requests <= 0) std::abort();
}

template <typename Read>
void read(Read reader, std::string_view text) {
  try {
    check(reader(text, "fuzz"));
  } catch (const qg::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  read([](const auto&... words) { return qg::parse_trtllm_report(words...); }, text);
  read([](const auto&... words) { return qg::parse_trtllm_text(words...); }, text);
  read(qg::parse_vllm_throughput, text);
  read(qg::parse_vllm_latency, text);
  qg::EngineLog log;
  log.take(text);
  if (log.cache_bytes_per_token() && !(*log.cache_bytes_per_token() > 0)) std::abort();
  return 0;
}
