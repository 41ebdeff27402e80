#include "bench/load_record.h"

#include "bench/rate.h"

namespace qg {

void describe_load(const Load& load, Record& record) {
  record.isl = load.isl;
  record.osl = load.osl;
  if (load.arrival != Arrival::rate) {
    record.batch = load.batch;
    return;
  }
  record.request_rate = load.rate_per_s;
  if (load.max_ttft_ms > 0) record.ttft_limit_ms = load.max_ttft_ms;
  if (load.max_tpot_ms > 0) record.tpot_limit_ms = load.max_tpot_ms;
  record.protocol = describe_arrivals(load);
}

std::string_view headline_metric(const Workload& w) {
  switch (w.kind) {
    case WorkloadKind::decode:
    case WorkloadKind::throughput:
      return "output_tok_s";
    case WorkloadKind::prefill:
      return "prefill_tok_s";
    case WorkloadKind::rate:
      return w.max_ttft_ms > 0 || w.max_tpot_ms > 0 ? "goodput_requests_s" : "requests_s";
  }
  return {};
}

}  // namespace qg
