#pragma once
// vLLM 0.12: `vllm bench latency` and `vllm bench throughput`.
#include "engines/commands.h"

namespace qg {

Measurement vllm_measurement(const EngineCase& e, const Workload& workload);
ServeCommand vllm_serve_command(const EngineCase& e, int port);

}  // namespace qg
