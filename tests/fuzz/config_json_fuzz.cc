// Any text as a config.json, of a Hugging Face folder and of a TensorRT-LLM one: an Error, or numbers that make a
// table.
#include <cstdint>
#include <string_view>

#include "checkpoint/strict_json.h"
#include "checkpoint/trtllm.h"
#include "core/error.h"
#include "model/architecture.h"

namespace {

void parse_hf(const qg::Json& config, const char* family) {
  try {
    qg::hf_quant_method(config);
    const qg::HfConfig parsed = qg::parse_hf_config(config, "input", qg::hf_rules_of_family(family));
    if (parsed.shape.layers <= 8) qg::make_model_table(parsed.shape);
    qg::parse_hf_config(qg::make_hf_config(parsed.shape, parsed.dtype, qg::hf_rules_of_family(family)), "made",
                        qg::hf_rules_of_family(family));
  } catch (const qg::Error&) {
  }
}

void parse_trtllm(const qg::Json& config) {
  try {
    qg::TrtllmConfig parsed = qg::parse_trtllm_config(config, "input");
    qg::make_trtllm_config(parsed);
    parsed.shape.family = "llama";
    if (parsed.shape.layers <= 8) qg::make_model_table(parsed.shape);
  } catch (const qg::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    qg::check_strict_json(text, "input");
    const qg::Json config = qg::parse_json(text, "input");
    parse_hf(config, "llama");
    parse_hf(config, "mistral");
    parse_trtllm(config);
    qg::hf_architecture(config, "input");
  } catch (const qg::Error&) {
  }
  return 0;
}
