#include "grid/engines.h"

#include <fmt/format.h>

#include <array>

#include "core/error.h"
#include "grid/names.h"

namespace qg {
namespace {

std::vector<EngineSpec> make_engines() {
  return {
      {EngineId::native, "native", "", "Quantgrid's own engine", KvRule::at_run_time, "trtllm",
       "the KV format is chosen at run time; one checkpoint per weight format"},
      // TrtLlmArgs: kv_cache_config.dtype must stay "auto"; the checkpoint's kv_cache_quant_algo goes into the engine.
      {EngineId::trtllm_tensorrt, "tensorrt-llm", "tensorrt", "TensorRT-LLM, TensorRT back end",
       KvRule::fixed_in_checkpoint, "trtllm",
       "the KV format is fixed when the checkpoint is made; one checkpoint per weight and KV format"},
      {EngineId::trtllm_pytorch, "tensorrt-llm", "pytorch", "TensorRT-LLM, PyTorch back end", KvRule::at_run_time,
       "modelopt", "the KV format is chosen at run time; one checkpoint per weight format"},
      {EngineId::vllm, "vllm", "", "vLLM", KvRule::at_run_time, "compressed-tensors",
       "the KV format is chosen at run time; one checkpoint per weight format"},
      {EngineId::openai, "openai", "", "any OpenAI-compatible server", KvRule::at_run_time, "",
       "formats are whatever the server was started with; Quantgrid only sends requests and measures"},
  };
}

std::string allowed_engines() {
  std::string text;
  for (const EngineSpec& row : engines())
    if (text.find(row.name) == std::string::npos) text += fmt::format("{}{}", text.empty() ? "" : ", ", row.name);
  return text;
}

}  // namespace

std::string EngineSpec::key() const {
  return backend.empty() ? std::string(name) : fmt::format("{}/{}", name, backend);
}

const std::vector<EngineSpec>& engines() {
  static const std::vector<EngineSpec> kRows = make_engines();
  return kRows;
}

const EngineSpec& engine_spec(EngineId id) {
  for (const EngineSpec& row : engines())
    if (row.id == id) return row;
  throw Error("unknown engine");
}

const EngineSpec& find_engine(std::string_view name, std::string_view backend) {
  const EngineSpec* named = nullptr;
  for (const EngineSpec& row : engines()) {
    if (row.name != name) continue;
    if (row.backend == backend) return row;
    named = &row;
  }
  if (!named)
    throw Error(fmt::format("there is no engine \"{}\"", name), "--engine",
                fmt::format("name one of: {}", allowed_engines()));
  if (named->backend.empty())
    throw Error(fmt::format("the engine {} has no back ends, but \"{}\" was asked for", name, backend), "--backend",
                "leave --backend out");
  if (backend.empty())
    throw Error(fmt::format("the engine {} has two back ends, and none was named", name), "--backend",
                "add --backend tensorrt or --backend pytorch");
  throw Error(fmt::format("the engine {} has no back end \"{}\"", name, backend), "--backend",
              "name one of: tensorrt, pytorch");
}

const EngineSpec* engine_of_record(std::string_view engine) {
  for (const EngineSpec& row : engines())
    if (row.key() == engine) return &row;
  for (const EngineSpec& row : engines())
    if (engine.starts_with(row.key() + "/")) return &row;
  return nullptr;
}

KvFormat checkpoint_kv(const EngineSpec& engine, KvFormat kv) {
  return engine.kv_rule == KvRule::fixed_in_checkpoint ? kv : KvFormat::fp16;
}

std::string case_checkpoint(const EngineSpec& engine, std::string_view stem, WeightFormat weights, KvFormat kv) {
  return checkpoint_name(stem, weights, checkpoint_kv(engine, kv));
}

bool runs_original_model(const EngineSpec& engine, WeightFormat weights) {
  return weights == WeightFormat::fp16 && engine.kv_rule == KvRule::at_run_time;
}

}  // namespace qg
