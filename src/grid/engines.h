#pragma once
// Engines that the grid can drive: one row each, and the one place that knows how an engine fixes its KV format.
#include <string>
#include <string_view>
#include <vector>

#include "core/format.h"
#include "grid/case.h"

namespace qg {

enum class EngineId { native, trtllm_tensorrt, trtllm_pytorch, vllm, openai };

// When the KV format is decided.
enum class KvRule {
  at_run_time,          // one checkpoint serves all KV formats; its folder is called -kv_fp16
  fixed_in_checkpoint,  // a checkpoint (and the engine built from it) for each KV format
};

struct EngineSpec {
  EngineId id;
  std::string_view name;     // --engine: "tensorrt-llm"
  std::string_view backend;  // --backend: "tensorrt"; empty when the engine has one only
  std::string_view label;    // "TensorRT-LLM, TensorRT back end"
  KvRule kv_rule;
  std::string_view layout;  // checkpoint layout that it loads: "trtllm"; empty: none, the server has its own
  std::string_view note;    // one line for `engines`

  std::string key() const;  // "native", "tensorrt-llm/tensorrt": as in grids/support.toml
};

const std::vector<EngineSpec>& engines();
const EngineSpec& engine_spec(EngineId id);
// --engine and --backend to a row; throws Error naming the allowed values. "tensorrt-llm" needs a back end.
const EngineSpec& find_engine(std::string_view name, std::string_view backend = {});

// The row of an engine as a record names it: its key, or its key and a part for people behind a slash ("native/served",
// "openai/llama.cpp"). Null when there is none.
const EngineSpec* engine_of_record(std::string_view engine);

// The KV format in the name of the checkpoint that serves `kv` on this engine.
KvFormat checkpoint_kv(const EngineSpec& engine, KvFormat kv);
// The checkpoint folder that a case needs on this engine; stem: "llama-3.2-3b-instruct".
std::string case_checkpoint(const EngineSpec& engine, std::string_view stem, WeightFormat weights, KvFormat kv);
// FP16 weights with a KV format that is chosen at run time need no checkpoint of ours: the original folder is loaded.
bool runs_original_model(const EngineSpec& engine, WeightFormat weights);

}  // namespace qg
