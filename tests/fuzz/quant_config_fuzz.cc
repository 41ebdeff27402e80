// Any text as the config.json of a quantized Hugging Face folder, read as modelopt's, compressed-tensors' and
// AutoAWQ's: an Error, or a quantization whose own description reads as the same.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "checkpoint/hf_quantized.h"
#include "checkpoint/strict_json.h"
#include "core/error.h"
#include "model/architecture.h"

namespace {

void parse(const qg::Json& config, const qg::HfQuantLayout& layout) {
  try {
    const qg::QuantSpec quant = layout.parse(config, "no-such-folder");
    try {
      layout.check(quant, qg::DType::f16);
    } catch (const qg::Error&) {
      return;  // read, but not written: FP8 weights with 16-bit activations
    }
    qg::Json made = qg::Json::object();
    layout.describe(quant, made);
    if (!(layout.parse(made, "no-such-folder") == quant)) std::abort();
    qg::ModelShape shape;
    shape.family = "llama";
    shape.layers = 1, shape.hidden = 64, shape.heads = 4, shape.kv_heads = 2, shape.head_dim = 16;
    shape.ffn = 128, shape.vocab = 32, shape.max_position = 16;
    const qg::ModelTable table = qg::make_model_table(shape);
    for (const qg::LinearSpec& spec : table.linears)
      layout.tensors({spec, spec.parts[0].rows, spec.parts[0].hf_name}, quant, qg::DType::f16);
  } catch (const qg::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  try {
    const std::string_view text(reinterpret_cast<const char*>(data), size);
    qg::check_strict_json(text, "input");
    const qg::Json config = qg::parse_json(text, "input");
    if (!config.is_object() || !config.contains("quantization_config")) return 0;
    for (const qg::HfQuantLayout* layout :
         {&qg::modelopt_layout(), &qg::compressed_tensors_layout(), &qg::autoawq_layout()})
      parse(config, *layout);
  } catch (const qg::Error&) {
  }
  return 0;
}
