#pragma once
// Layouts differ in where a layer's input may be scaled (LinearWeights::prequant_scale): everywhere, only where no norm
// comes before, or nowhere. Folding moves a scale into what makes the input; nothing is quantized again.
#include <map>
#include <string>
#include <vector>

#include "checkpoint/checkpoint.h"

namespace qg {

enum class PrequantPlace { anywhere, not_behind_norm, nowhere };
// Of a layout, for a quantization as `quant` says it.
PrequantPlace prequant_place(Layout layout, const QuantSpec& quant);

// One transformer layer between two layouts.
struct LayerWeights {
  std::vector<float> attention_norm, mlp_norm;  // [hidden]
  std::map<LinearRole, LinearWeights> linears;
};

// Folds what `place` does not allow: into the norm (q, k, v; gate, up), into the scales of up's rows (down), into those
// of v's rows (attention output; its scale must be the same in all query heads of a KV head). Scales of ones are
// dropped. Row scales change exactly but for F32 rounding; a norm is rounded when it is stored. Throws Error where
// something would have to be quantized again. Returns what the values that a KV cache stores are multiplied by,
// [kv_rows]; empty where they are as before: scales of V that were calibrated before no longer fit.
std::vector<float> fold_prequant(LayerWeights& layer, const ModelTable& table, int index, PrequantPlace place);

// For the attention output of a model whose heads share KV heads: the number, for each of its inputs, of the scale
// that it must share with the other heads of its group when it is to be folded. Empty: no sharing.
std::vector<int32_t> shared_output_scales(const ModelShape& shape);

}  // namespace qg
