#pragma once
// TensorRT-LLM 1.1.0: `trtllm-bench` on both back ends, `trtllm-build` for the TensorRT one.
#include "engines/commands.h"

namespace qg {

CommandLine trtllm_build_command(const EngineCase& e);
Measurement trtllm_measurement(const EngineCase& e, const Workload& workload);
ServeCommand trtllm_serve_command(const EngineCase& e, int port);
// The YAML file that `--extra_llm_api_options` takes; PyTorch back end.
std::string trtllm_options_text(const Case& c, const Workload& workload);

}  // namespace qg
