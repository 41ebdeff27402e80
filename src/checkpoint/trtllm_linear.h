#pragma once
// One linear layer in the TensorRT-LLM layout: which tensors it has, and the way between them and LinearWeights.
#include <functional>
#include <string>
#include <utility>
#include <vector>

#include "checkpoint/safetensors.h"
#include "core/model_shape.h"
#include "core/quant_spec.h"

namespace qg {

// The quantizations of the layout that we read and write.
enum class TrtllmAlgo {
  none,
  fp8,             // FP8: one static scale for weights, one for activations
  fp8_per_token,   // FP8_PER_CHANNEL_PER_TOKEN: a scale per row, activations dynamic
  int4_awq,        // W4A16_AWQ
  int8_static,     // W8A8_SQ_PER_CHANNEL: activations static, every layer scales its input explicitly
  int8_per_token,  // W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN: dynamic; attention.dense and mlp.proj scale their input
};
std::string_view to_string(TrtllmAlgo algo);  // as "quant_algo" spells it; "none" for none
TrtllmAlgo parse_trtllm_algo(const std::string& name, const std::string& where);
QuantSpec quant_of_trtllm_algo(TrtllmAlgo algo);
// The algorithm that holds `quant`; throws Error with the reason when none does.
TrtllmAlgo trtllm_algo(const QuantSpec& quant);

// The layer's tensors. `dtype` is that of the checkpoint.
std::vector<TensorEntry> trtllm_linear_entries(const LinearSpec& spec, const QuantSpec& quant, DType dtype);

// The same tensors, filled. Throws Error when the layout cannot hold the layer.
std::vector<std::pair<std::string, Tensor>> encode_trtllm_linear(const LinearSpec& spec, const LinearWeights& weights,
                                                                 const QuantSpec& quant, DType dtype);
// And back; `get` yields a tensor by name.
LinearWeights decode_trtllm_linear(const LinearSpec& spec, const QuantSpec& quant,
                                   const std::function<Tensor(const std::string&)>& get);

// Int4 bytes between the two forms. Canonical: U8 [n, k/2], the low nibble an even column, a nibble u means u - 8.
// Layout: I8 [n/2, k], the low nibble row 2j, the high nibble row 2j + 1, a nibble is two's complement.
Tensor pack_trtllm_int4(const Tensor& canonical);
Tensor unpack_trtllm_int4(const Tensor& stored);

}  // namespace qg
