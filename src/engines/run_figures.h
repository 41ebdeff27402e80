#pragma once
// An engine's report as the metrics of our records. What each figure counts stands in docs/engines.md.
#include "engines/engine_run.h"
#include "engines/reports.h"

namespace qg {

// Puts metrics, requests, rounds and the batch into `run`; leaves it `invalid` when the report is of another workload
// than was asked for, or when the batch that the workload names was not reached.
void take_trtllm_report(const EngineReport& report, const Workload& workload, EngineRun& run);
// `first`: the rounds with one token out, where the workload has such a run (decoding).
void take_vllm_report(const EngineReport& total, const EngineReport* first, const Workload& workload, EngineRun& run);

}  // namespace qg
